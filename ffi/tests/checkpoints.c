/* Saves a checkpoint, loads it, as tensors and slices; every byte is compared, and a damaged file is an error. */
#include "common.h"

#define ROWS 96
#define COLUMNS 40

static float weight[ROWS][COLUMNS];
static uint16_t bias[COLUMNS]; /* as bf16: only bytes here */

static void save(const char *path, strait_saved **saved) {
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
    if (saved) {
        OK(strait_save_digests(save, "xxh3-64", "both", &error));
        OK(strait_save_block_bytes(save, 64 << 10, &error));
        OK(strait_save_writes_in_flight(save, 2, &error));
        FAILS(STRAIT_STATUS_NOT_FOUND, "crc32c", strait_save_digests(save, "md5", "both", &error));
        FAILS(STRAIT_STATUS_CONFIG, "tensor", strait_save_digests(save, "crc32c", "bit", &error));
    }
    FAILS(STRAIT_STATUS_NOT_FOUND, "bf16", strait_save_add_host(save, "x", "float", shape, 2, weight, 4, &error));
    OK(strait_save_write(save, path, saved, &error));
    FAILS(STRAIT_STATUS_OPEN, "/no/such", strait_save_write(save, "/no/such/directory/x.safetensors", NULL, &error));
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

/* Memory of this program's, and how often it was given back. */
typedef struct {
    unsigned char *base;
    unsigned released;
} piece;

static void release(void *owner) {
    ((piece *)owner)->released++;
}

static piece piece_of(size_t bytes) {
    piece own = {aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), 0};
    CHECK(own.base);
    memset(own.base, 0xA5, bytes);
    return own;
}

static bool not_the_copy(void *context, size_t tensor) {
    const char *name;
    CHECK(strait_checkpoint_tensor(context, tensor, &name, NULL, NULL, NULL) == STRAIT_STATUS_OK);
    return strcmp(name, "layer.copy") != 0;
}

static strait_load_builder *builder_of(const strait_checkpoint *checkpoint, unsigned devices) {
    strait_load_builder *builder;
    strait_device *host;
    OK(strait_load_builder_new(checkpoint, &builder, &error));
    OK(strait_device_host(&host, &error));
    while (devices--) {
        OK(strait_load_builder_device(builder, host, &error));
    }
    OK(strait_device_free(host));
    OK(strait_load_builder_ring(builder, slow() ? "pread" : "auto", &error));
    return builder;
}

/* Tensors in memory that the caller passes in: each in a place of its own, the others in one block. */
static void into_own_memory(const strait_checkpoint *checkpoint) {
    strait_load_builder *builder = builder_of(checkpoint, 1);
    piece own = piece_of(sizeof weight), other = piece_of(sizeof weight);
    uint64_t size, without;
    OK(strait_load_builder_block_size(builder, 0, &size, &error));
    CHECK(size >= 2 * sizeof weight + sizeof bias);
    OK(strait_load_builder_filter(builder, not_the_copy, (void *)checkpoint, &error));
    OK(strait_load_builder_place(builder, "layer.weight", 0, (uintptr_t)other.base, sizeof weight, release, &other, &error));
    CHECK(other.released == 0);
    /* In place of the one before, which is given back. */
    OK(strait_load_builder_place(builder, "layer.weight", 0, (uintptr_t)own.base, sizeof weight, release, &own, &error));
    CHECK(other.released == 1 && own.released == 0);
    FAILS(STRAIT_STATUS_NOT_FOUND, "no tensor",
          strait_load_builder_place(builder, "x", 0, (uintptr_t)other.base, sizeof weight, release, &other, &error));
    FAILS(STRAIT_STATUS_NOT_FOUND, "no tensor", strait_load_builder_slice(builder, "x", 0, 0, 0, 1, &error));
    FAILS(STRAIT_STATUS_NOT_FOUND, "no tensor", strait_load_builder_skip(builder, "x", 0, &error));
    CHECK(other.released == 1);
    OK(strait_load_builder_block_size(builder, 0, &without, &error));
    CHECK(without >= sizeof bias && without < sizeof weight);
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "device", strait_load_builder_block_size(builder, 1, &size, &error));
    piece block = piece_of(without);
    OK(strait_load_builder_block(builder, 0, (uintptr_t)block.base, without, release, &block, &error));
    strait_load *load;
    OK(strait_load_builder_start(builder, &load, &error));
    OK(strait_load_builder_free(builder));
    strait_tensor *tensors[2] = {next_tensor(load), next_tensor(load)};
    CHECK(!next_tensor(load));
    OK(strait_load_free(load));
    CHECK(own.released == 0 && block.released == 0); /* the tensors have it */
    for (int i = 0; i < 2; i++) {
        const char *name;
        uint64_t at, bytes;
        OK(strait_tensor_name(tensors[i], &name, NULL, NULL, &error));
        OK(strait_tensor_device_ptr(tensors[i], &at, &bytes, &error));
        OK(strait_tensor_wait(tensors[i], &error));
        if (!strcmp(name, "layer.weight")) {
            CHECK(at == (uintptr_t)own.base && !memcmp(own.base, weight, sizeof weight));
        } else {
            CHECK(!strcmp(name, "layer.bias") && at >= (uintptr_t)block.base && at + bytes <= (uintptr_t)block.base + without);
            CHECK(!memcmp((const void *)(uintptr_t)at, bias, sizeof bias));
        }
        OK(strait_tensor_free(tensors[i]));
    }
    CHECK(own.released == 1 && block.released == 1);

    /* Too little, and a builder that starts nothing: given back as well. */
    own.released = 0;
    builder = builder_of(checkpoint, 1);
    OK(strait_load_builder_place(builder, "layer.weight", 0, (uintptr_t)own.base, 8, release, &own, &error));
    FAILS(STRAIT_STATUS_CONFIG, "layer.weight", strait_load_builder_start(builder, &load, &error));
    CHECK(own.released == 1);
    OK(strait_load_builder_free(builder));
    builder = builder_of(checkpoint, 1);
    OK(strait_load_builder_place(builder, "layer.weight", 0, (uintptr_t)own.base, sizeof weight, release, &own, &error));
    OK(strait_load_builder_free(builder));
    CHECK(own.released == 2);
    free(own.base);
    free(other.base);
    free(block.base);
}

/* Who takes memory back, and asks the builder that it was lent to. */
typedef struct {
    strait_load_builder *builder;
    unsigned released;
} asker;

static void ask(void *owner) {
    asker *own = owner;
    strait_error *why = NULL;
    uint64_t bytes;
    own->released += 1;
    CHECK(strait_load_builder_gap_bytes(own->builder, 4096, &why) == STRAIT_STATUS_WRONG_ORDER && why);
    CHECK(strait_load_builder_block_size(own->builder, 0, &bytes, NULL) == STRAIT_STATUS_WRONG_ORDER);
    OK(strait_error_free(why));
}

/* A load that does not start gives back what it was lent before the call returns. Mutant that this catches, by its deadline: a
   builder that is dropped under its own lock. */
static void asked_when_given_back(const strait_checkpoint *checkpoint) {
    asker own = {builder_of(checkpoint, 1), 0};
    piece memory = piece_of(4096);
    strait_load *load;
    OK(strait_load_builder_place(own.builder, "layer.weight", 0, (uintptr_t)memory.base, 8, ask, &own, &error));
    OK(strait_load_builder_block(own.builder, 0, (uintptr_t)memory.base, 4096, ask, &own, &error));
    FAILS(STRAIT_STATUS_CONFIG, "layer.weight", strait_load_builder_start(own.builder, &load, &error));
    CHECK(own.released == 2);
    OK(strait_load_builder_free(own.builder));
    free(memory.base);
}

/* Each of two devices gets what the other does not. */
static void shared_out(const strait_checkpoint *checkpoint) {
    strait_load_builder *builder = builder_of(checkpoint, 2);
    OK(strait_load_builder_skip(builder, "layer.weight", 0, &error));
    OK(strait_load_builder_skip(builder, "layer.bias", 1, &error));
    OK(strait_load_builder_skip(builder, "layer.copy", 0, &error));
    OK(strait_load_builder_skip(builder, "layer.copy", 1, &error));
    strait_load *load;
    OK(strait_load_builder_start(builder, &load, &error));
    OK(strait_load_builder_free(builder));
    for (unsigned i = 0; i < 2; i++) {
        const char *name;
        size_t device;
        strait_tensor *tensor = next_tensor(load);
        OK(strait_tensor_name(tensor, &name, NULL, &device, &error));
        CHECK(!strcmp(name, device ? "layer.weight" : "layer.bias"));
        OK(strait_tensor_free(tensor));
    }
    CHECK(!next_tensor(load));
    OK(strait_load_free(load));
}

/* What a save says of itself, and a load that is checked against it. */
static void with_digests(const char *directory, const char *path) {
    strait_saved *saved;
    save(path, &saved);
    size_t files, len;
    uint64_t bytes, pinned_bytes;
    const char *name, *json, *ring;
    bool direct;
    OK(strait_saved_files(saved, &files, &bytes, &error));
    OK(strait_saved_file(saved, 0, &name, &error));
    CHECK(files == 1 && bytes > 2 * sizeof weight + sizeof bias && !strcmp(name, path));
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "file", strait_saved_file(saved, 1, &name, &error));
    CHECK(strait_saved_index(saved, &name, &error) == STRAIT_STATUS_ABSENT && !error);
    OK(strait_saved_way(saved, &ring, &direct, &pinned_bytes, &error));
    CHECK((!strcmp(ring, "uring") || !strcmp(ring, "pread")) && pinned_bytes > 0);
    OK(strait_saved_manifest(saved, &json, &len, &error));
    CHECK(len == strlen(json) && strstr(json, "layer.bias") && strstr(json, "xxh3-64:"));
    char manifest[4200];
    snprintf(manifest, sizeof manifest, "%s/manifest.json", directory);
    FILE *file = fopen(manifest, "wb");
    CHECK(file && fwrite(json, 1, len, file) == len && !fclose(file));
    OK(strait_saved_free(saved));

    strait_checkpoint *checkpoint;
    size_t tensor, number;
    uint64_t offset;
    OK(strait_checkpoint_open(path, &checkpoint, &error));
    OK(strait_checkpoint_find(checkpoint, "layer.weight", &tensor, &error));
    OK(strait_checkpoint_files(checkpoint, &files, &error));
    OK(strait_checkpoint_extent(checkpoint, tensor, &number, &offset, &error));
    OK(strait_checkpoint_file(checkpoint, number, &name, &bytes, &error));
    CHECK(files == 1 && number == 0 && !strcmp(name, path) && offset + sizeof weight <= bytes);
    for (unsigned damaged = 0; damaged < 2; damaged++) {
        if (damaged) {
            file = fopen(path, "r+b");
            CHECK(file && !fseek(file, (long)offset + 100, SEEK_SET) && fputc(0x77, file) != EOF && !fclose(file));
        }
        strait_load_builder *builder = builder_of(checkpoint, 1);
        strait_load *load;
        OK(strait_load_builder_name(builder, "layer.weight", &error));
        OK(strait_load_builder_verify(builder, manifest, &error));
        OK(strait_load_builder_start(builder, &load, &error));
        OK(strait_load_builder_free(builder));
        strait_tensor *one;
        if (damaged) {
            FAILS(STRAIT_STATUS_CORRUPT, "layer.weight", strait_load_next(load, -1, &one, &error));
        } else {
            OK(strait_tensor_free(next_tensor(load)));
        }
        OK(strait_load_free(load));
    }
    OK(strait_checkpoint_free(checkpoint));
}

/* What the format allows in JSON and C's texts do not is refused, and not cut: "a\0b" would become "a". */
static void with_nul(const char *directory) {
    static const char *headers[] = {
        ("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}"),
        "{\"__metadata__\":{\"k\\u0000y\":\"v\"},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
        "{\"__metadata__\":{\"k\":\"v\\u0000w\"},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
    };
    static const char *named[] = {"tensor \"a\\0b\"", "entry \"k\\0y\"", "entry \"k\""};
    char path[4200];
    snprintf(path, sizeof path, "%s/nul.safetensors", directory);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t length[8] = {0};
        length[0] = (uint8_t)strlen(headers[i]);
        FILE *file = fopen(path, "wb");
        CHECK(file && fwrite(length, 1, 8, file) == 8 && fputs(headers[i], file) >= 0 && fputs("xy", file) >= 0);
        CHECK(!fclose(file));
        strait_checkpoint *checkpoint = NULL;
        FAILS(STRAIT_STATUS_FORMAT, named[i], strait_checkpoint_open(path, &checkpoint, &error));
        CHECK(!checkpoint);
    }
}

/* A tensor that cannot be saved is refused when it is added, and changes nothing. */
static void bad_tensors(const char *path) {
    strait_device *host;
    strait_save *save;
    const uint64_t shape[2] = {2, 2}, huge[2] = {UINT64_MAX, UINT64_MAX};
    const float data[4] = {1, 2, 3, 4};
    OK(strait_device_host(&host, &error));
    OK(strait_save_new(host, &save, &error));
    OK(strait_device_free(host));
    FAILS(STRAIT_STATUS_CONFIG, "16 bytes", strait_save_add_host(save, "a", "f32", shape, 2, data, 15, &error));
    FAILS(STRAIT_STATUS_CONFIG, "too many", strait_save_add_host(save, "a", "f32", huge, 2, data, 16, &error));
    FAILS(STRAIT_STATUS_CONFIG, "__metadata__",
          strait_save_add_host(save, "__metadata__", "f32", shape, 2, data, 16, &error));
    FAILS(STRAIT_STATUS_NULL_ARGUMENT, "device_ptr", strait_save_add_device(save, "a", "f32", shape, 2, 0, &error));
    OK(strait_save_add_host(save, "a", "f32", shape, 2, data, 16, &error));
    FAILS(STRAIT_STATUS_CONFIG, "already", strait_save_add_host(save, "a", "f32", shape, 2, data, 16, &error));
    OK(strait_save_write(save, path, NULL, &error));
    OK(strait_save_free(save));
    strait_checkpoint *checkpoint;
    size_t tensors;
    OK(strait_checkpoint_open(path, &checkpoint, &error));
    OK(strait_checkpoint_tensors(checkpoint, &tensors, NULL, &error));
    CHECK(tensors == 1);
    OK(strait_checkpoint_free(checkpoint));
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
    save(path, NULL);

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
    into_own_memory(checkpoint);
    asked_when_given_back(checkpoint);
    shared_out(checkpoint);
    OK(strait_checkpoint_free(checkpoint));
    with_digests(argv[1], path);
    with_nul(argv[1]);
    bad_tensors(path);

    FILE *file = fopen(path, "r+b");
    CHECK(file && fputs("\xff\xff\xff\xff\xff\xff", file) >= 0 && !fclose(file));
    FAILS(STRAIT_STATUS_FORMAT, "checkpoint.safetensors", strait_checkpoint_open(path, &checkpoint, &error));
    return finish();
}
