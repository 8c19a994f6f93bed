/* Saves a checkpoint, loads it, as tensors and slices; every byte is compared, and a damaged file is an error. */
#include "common.h"

#define ROWS 96
#define COLUMNS 40

static float weight[ROWS][COLUMNS];
static uint16_t bias[COLUMNS]; /* as bf16: only bytes here */

static void save(const char *path) {
    strait_device *host;
    strait_save *save;
    OK(strait_device_host(&host, &error));
    OK(strait_save_new(host, &save, &error));
    OK(strait_device_free(host));
    uint64_t shape[] = {ROWS, COLUMNS};
    OK(strait_save_metadata(save, "format", "pt", &error));
    OK(strait_save_ring(save, slow() ? "pread" : "auto", &error));
    OK(strait_save_add_host(save, "layer.weight", "f32", shape, 2, weight, sizeof weight, &error));
    OK(strait_save_add_host(save, "layer.bias", "bf16", shape + 1, 1, bias, sizeof bias, &error));
    OK(strait_save_add_device(save, "layer.copy", "f32", shape, 2, (uint64_t)(uintptr_t)weight, &error));
    FAILS(STRAIT_STATUS_NOT_FOUND, "bf16", strait_save_add_host(save, "x", "float", shape, 2, weight, 4, &error));
    OK(strait_save_write(save, path, &error));
    FAILS(STRAIT_STATUS_OPEN, "/no/such", strait_save_write(save, "/no/such/directory/x.safetensors", &error));
    OK(strait_save_free(save));
}

static strait_load *start(const strait_checkpoint *checkpoint, const char *pattern, bool sliced) {
    strait_load_builder *builder;
    strait_device *host;
    strait_load *load;
    OK(strait_load_builder_new(checkpoint, &builder, &error));
    OK(strait_device_host(&host, &error));
    OK(strait_load_builder_device(builder, host, &error));
    OK(strait_device_free(host));
    OK(strait_load_builder_ring(builder, slow() ? "pread" : "auto", &error));
    OK(strait_load_builder_matching(builder, pattern, &error));
    if (sliced) {
        OK(strait_load_builder_slice(builder, "layer.weight", 0, 0, 10, 12, &error));
    }
    OK(strait_load_builder_start(builder, &load, &error));
    strait_load *again;
    FAILS(STRAIT_STATUS_WRONG_ORDER, "built", strait_load_builder_start(builder, &again, &error));
    OK(strait_load_builder_free(builder));
    return load;
}

static strait_tensor *next_tensor(strait_load *load) {
    strait_tensor *tensor = NULL;
    strait_status status;
    while ((status = strait_load_next(load, 100, &tensor, &error)) == STRAIT_STATUS_PENDING) {
    }
    CHECK(status == STRAIT_STATUS_OK || status == STRAIT_STATUS_END);
    return tensor;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    for (int row = 0; row < ROWS; row++) {
        for (int column = 0; column < COLUMNS; column++) {
            weight[row][column] = (float)(row * 1000 + column);
            bias[column] = (uint16_t)(column * 257);
        }
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", argv[1]);
    save(path);

    strait_checkpoint *checkpoint;
    size_t tensors, number, ndim, len;
    uint64_t bytes, device_ptr;
    const uint64_t *shape;
    const char *name, *dtype, *key, *value;
    OK(strait_checkpoint_open(path, &checkpoint, &error));
    OK(strait_checkpoint_tensors(checkpoint, &tensors, &bytes, &error));
    CHECK(tensors == 3 && bytes == 2 * sizeof weight + sizeof bias);
    OK(strait_checkpoint_find(checkpoint, "layer.bias", &number, &error));
    OK(strait_checkpoint_tensor(checkpoint, number, &name, &dtype, &bytes, &error));
    OK(strait_checkpoint_shape(checkpoint, number, &shape, &ndim, &error));
    CHECK(!strcmp(name, "layer.bias") && !strcmp(dtype, "bf16") && bytes == sizeof bias && ndim == 1 && shape[0] == COLUMNS);
    OK(strait_checkpoint_metadata(checkpoint, 0, &key, &value, &error));
    CHECK(!strcmp(key, "format") && !strcmp(value, "pt"));
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "entry", strait_checkpoint_metadata(checkpoint, 1, &key, &value, &error));
    FAILS(STRAIT_STATUS_NOT_FOUND, "no tensor", strait_checkpoint_find(checkpoint, "nothing", &number, &error));

    /* All of them; a tensor outlives its load, and a DLPack tensor the handle. */
    strait_load *load = start(checkpoint, "*", false);
    DLManagedTensorVersioned *kept = NULL;
    for (unsigned i = 0; i < 3; i++) {
        strait_tensor *tensor = next_tensor(load);
        const uint8_t *data;
        OK(strait_tensor_name(tensor, &name, &dtype, &number, &error));
        OK(strait_tensor_wait(tensor, &error));
        OK(strait_tensor_host_bytes(tensor, &data, &len, &error));
        OK(strait_tensor_device_ptr(tensor, &device_ptr, &bytes, &error));
        CHECK(number == 0 && bytes == len && device_ptr == (uint64_t)(uintptr_t)data);
        const void *own = strcmp(name, "layer.bias") ? (const void *)weight : (const void *)bias;
        CHECK(memcmp(data, own, len) == 0);
        if (!strcmp(name, "layer.weight")) {
            OK(strait_tensor_dlpack(tensor, STRAIT_STREAM_NONE, STRAIT_TENSOR_READ_ONLY, &kept, &error));
        }
        if (!strcmp(name, "layer.bias")) {
            DLManagedTensor *legacy;
            OK(strait_tensor_dlpack_legacy(tensor, STRAIT_STREAM_NONE, 0, &legacy, &error));
            CHECK(legacy->dl_tensor.dtype.code == kDLBfloat && legacy->dl_tensor.dtype.bits == 16);
            legacy->deleter(legacy);
        }
        OK(strait_tensor_free(tensor));
    }
    CHECK(!next_tensor(load));
    strait_stats *stats;
    OK(strait_load_stats(load, &stats, &error));
    OK(strait_stats_number(stats, "tensors", &bytes, &error));
    CHECK(bytes == 3);
    OK(strait_stats_free(stats));
    OK(strait_load_free(load));
    const DLTensor *dl = &kept->dl_tensor;
    CHECK(dl->ndim == 2 && dl->shape[0] == ROWS && dl->shape[1] == COLUMNS && dl->strides[0] == COLUMNS &&
          dl->strides[1] == 1 && dl->dtype.code == kDLFloat && dl->dtype.bits == 32);
    CHECK(memcmp((const char *)dl->data + dl->byte_offset, weight, sizeof weight) == 0);
    kept->deleter(kept);

    /* Two rows of one. */
    load = start(checkpoint, "*.weight", true);
    strait_tensor *tensor = next_tensor(load);
    float rows[2][COLUMNS];
    OK(strait_tensor_shape(tensor, &shape, &ndim, &error));
    CHECK(ndim == 2 && shape[0] == 2 && shape[1] == COLUMNS);
    OK(strait_tensor_read_back(tensor, rows, sizeof rows, &len, &error));
    CHECK(len == sizeof rows && memcmp(rows, weight[10], sizeof rows) == 0);
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "capacity", strait_tensor_read_back(tensor, rows, 3, &len, &error));
    OK(strait_load_remaining(load, &number, &error));
    CHECK(number == 0);
    OK(strait_tensor_free(tensor));
    OK(strait_load_free(load));

    /* Freed in the middle. */
    load = start(checkpoint, "*", false);
    OK(strait_load_free(load));
    OK(strait_checkpoint_free(checkpoint));

    FILE *file = fopen(path, "r+b");
    CHECK(file && fputs("\xff\xff\xff\xff\xff\xff", file) >= 0 && !fclose(file));
    FAILS(STRAIT_STATUS_FORMAT, "checkpoint.safetensors", strait_checkpoint_open(path, &checkpoint, &error));
    return finish();
}
