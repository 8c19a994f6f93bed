/*
 * The C ABI on a CUDA device: every byte of loaders and of a checkpoint is compared, and of arrays by DLPack, whose elements
 * may have changed on the way.
 *
 *     c_check DIRECTORY ORDINAL          "host" in place of the ordinal: the same in host memory
 *
 * Exit code 3: there is no such device. `scripts/gpu-check` builds it against libstrait.so.
 */
#include "common.h"

#include <dlfcn.h>

#define RECORDS 500
#define BYTES 5000
#define BATCH 16

static strait_device *device;
/* Room for an array whose elements became four times as wide. */
static unsigned char kept[4 * BATCH * BYTES];

/* A device of the command line; none: says so, and ends with 3. */
static void open_device(const char *name) {
    strait_status status =
        strcmp(name, "host") ? strait_device_cuda((uint32_t)atoi(name), &device, &error) : strait_device_host(&device, &error);
    if (status != STRAIT_STATUS_OK) {
        puts(strait_error_message(error));
        exit(3);
    }
}

/* A function of the driver that strait has loaded. */
static void *driver(const char *name) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    library = library ? library : dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "%s: %s\n", name, dlerror());
        exit(1);
    }
    return function;
}

/* Copies what an array has to `kept`, as a program in C would: by the driver, in the primary context that strait uses too. */
static size_t read_array(const DLTensor *array) {
    size_t bytes = array->dtype.bits / 8;
    for (int dimension = 0; dimension < array->ndim; dimension++) {
        bytes *= (size_t)array->shape[dimension];
    }
    CHECK(bytes <= sizeof kept);
    memset(kept, 0xEE, sizeof kept);
    uintptr_t address = (uintptr_t)array->data + array->byte_offset;
    if (array->device.device_type == kDLCPU) {
        memcpy(kept, (const void *)address, bytes);
        return bytes;
    }
    void *context, *stream;
    int (*retain)(void **, int), (*push)(void *), (*pop)(void **), (*release)(int), (*make)(void **, unsigned);
    int (*copy)(void *, unsigned long long, size_t, void *), (*wait)(void *), (*destroy)(void *);
    *(void **)&retain = driver("cuDevicePrimaryCtxRetain");
    *(void **)&push = driver("cuCtxPushCurrent_v2");
    *(void **)&make = driver("cuStreamCreate");
    *(void **)&copy = driver("cuMemcpyDtoHAsync_v2");
    *(void **)&wait = driver("cuStreamSynchronize");
    *(void **)&destroy = driver("cuStreamDestroy_v2");
    *(void **)&pop = driver("cuCtxPopCurrent_v2");
    *(void **)&release = driver("cuDevicePrimaryCtxRelease_v2");
    CHECK(!retain(&context, array->device.device_id) && !push(context) && !make(&stream, 1));
    CHECK(!copy(kept, address, bytes, stream) && !wait(stream));
    CHECK(!destroy(stream) && !pop(&context) && !release(array->device.device_id));
    return bytes;
}

/* What a field is to come out as besides. */
enum kind { VIEWS, BYTES_AS_THEY_ARE, WORDS_AS_I64, BYTES_AS_FRACTIONS, KINDS };

static void ask(strait_loader_builder *builder, enum kind kind) {
    uint64_t bytes = BYTES, words = BYTES / 2;
    if (kind == BYTES_AS_THEY_ARE || kind == BYTES_AS_FRACTIONS) {
        OK(strait_loader_builder_array(builder, "record", "u8", &bytes, 1, &error));
    }
    if (kind == WORDS_AS_I64) {
        OK(strait_loader_builder_array(builder, "record", "u16", &words, 1, &error));
        OK(strait_loader_builder_widen(builder, "record", "i64", &error));
    }
    if (kind == BYTES_AS_FRACTIONS) {
        OK(strait_loader_builder_scale(builder, "record", "f32", 1.0f / 255.0f, -0.5f, &error));
    }
}

/* Compares the rows in `kept` with what became of these records. */
static void check_rows(enum kind kind, const uint64_t *ids, size_t count, size_t bytes) {
    const unsigned char *place = kept;
    for (size_t row = 0; row < count; row++) {
        for (size_t byte = 0; byte < BYTES; byte += kind == WORDS_AS_I64 ? 2 : 1) {
            unsigned char stored = byte_at(ids[row], byte);
            if (kind == WORDS_AS_I64) {
                int64_t word = stored | byte_at(ids[row], byte + 1) << 8;
                CHECK(!memcmp(place, &word, sizeof word));
                place += sizeof word;
            } else if (kind == BYTES_AS_FRACTIONS) {
                volatile float product = (float)stored * (1.0f / 255.0f);
                float fraction = product + -0.5f;
                CHECK(!memcmp(place, &fraction, sizeof fraction));
                place += sizeof fraction;
            } else {
                CHECK(*place++ == stored);
            }
        }
    }
    CHECK((size_t)(place - kept) == bytes);
}

/* A batch's array, which gives the batch back by its deleter alone. */
static void array(strait_batch *batch, enum kind kind, const uint64_t *ids, size_t count) {
    DLManagedTensorVersioned *tensor;
    OK(strait_batch_wait(batch, &error));
    OK(strait_batch_field_tensor(batch, "record", STRAIT_STREAM_NONE, 0, &tensor, &error));
    CHECK(tensor->dl_tensor.ndim == 2 && tensor->dl_tensor.shape[0] == (int64_t)count);
    CHECK(tensor->dl_tensor.shape[1] == (kind == WORDS_AS_I64 ? BYTES / 2 : BYTES));
    check_rows(kind, ids, count, read_array(&tensor->dl_tensor));
    OK(strait_batch_free(batch));
    tensor->deleter(tensor);
}

/* Every sample as it was read; the arrays as they came out. */
static uint64_t loaders(const char *directory) {
    strait_dataset *dataset = shard(directory, "c_check.bin", RECORDS, BYTES);
    uint64_t samples = 0;
    for (enum kind kind = VIEWS; kind < KINDS; kind++) {
        strait_loader_builder *builder = options(dataset, BATCH);
        OK(strait_loader_builder_device(builder, device, &error));
        OK(strait_loader_builder_shuffle(builder, "full", &error));
        OK(strait_loader_builder_policy(builder, "short", &error));
        ask(builder, kind);
        strait_loader *loader = build(builder);
        OK(strait_loader_begin(loader, 0, &error));
        for (strait_batch *batch; (batch = next(loader));) {
            const uint64_t *ids;
            size_t count, len;
            OK(strait_batch_samples(batch, &ids, &count, &error));
            for (size_t i = 0; i < count; i++) {
                OK(strait_batch_read_back(batch, "record", i, kept, sizeof kept, &len, &error));
                CHECK(len == BYTES);
                check_bytes(kept, len, ids[i]);
            }
            samples += count;
            if (kind == VIEWS) {
                OK(strait_batch_free(batch));
            } else {
                array(batch, kind, ids, count);
            }
        }
        OK(strait_loader_free(loader));
    }
    OK(strait_dataset_free(dataset));
    return samples;
}

/* Saved from the host, loaded to the device, compared. */
static uint64_t checkpoint(const char *directory) {
    static unsigned char bytes[3][70001];
    char path[4096], name[32];
    snprintf(path, sizeof path, "%s/c_check.safetensors", directory);
    strait_device *host;
    strait_save *save;
    OK(strait_device_host(&host, &error));
    OK(strait_save_new(host, &save, &error));
    for (unsigned i = 0; i < 3; i++) {
        uint64_t length = sizeof bytes[i] - i * 1000;
        for (size_t byte = 0; byte < length; byte++) {
            bytes[i][byte] = byte_at(i, byte);
        }
        snprintf(name, sizeof name, "%u", i);
        OK(strait_save_add_host(save, name, "u8", &length, 1, bytes[i], length, &error));
    }
    OK(strait_save_write(save, path, NULL, &error));
    OK(strait_save_free(save));
    OK(strait_device_free(host));

    strait_checkpoint *opened;
    strait_load_builder *builder;
    strait_load *load;
    OK(strait_checkpoint_open(path, &opened, &error));
    OK(strait_load_builder_new(opened, &builder, &error));
    OK(strait_load_builder_device(builder, device, &error));
    OK(strait_load_builder_start(builder, &load, &error));
    OK(strait_load_builder_free(builder));
    OK(strait_checkpoint_free(opened));
    uint64_t tensors = 0;
    for (;; tensors++) {
        strait_tensor *tensor;
        strait_status status = strait_load_next(load, -1, &tensor, &error);
        if (status == STRAIT_STATUS_END) {
            break;
        }
        CHECK(status == STRAIT_STATUS_OK);
        const char *number;
        size_t len;
        OK(strait_tensor_name(tensor, &number, NULL, NULL, &error));
        OK(strait_tensor_read_back(tensor, kept, sizeof kept, &len, &error));
        CHECK(len == sizeof bytes[0] - (size_t)atoi(number) * 1000);
        check_bytes(kept, len, (uint64_t)atoi(number));
        OK(strait_tensor_free(tensor));
    }
    OK(strait_load_free(load));
    remove(path);
    return tensors;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s DIRECTORY ORDINAL\n", argv[0]);
        return 2;
    }
    open_device(argv[2]);
    uint64_t samples = loaders(argv[1]), tensors = checkpoint(argv[1]);
    CHECK(samples == KINDS * RECORDS && tensors == 3);
    OK(strait_device_free(device));
    CHECK(strait_handles_live() == 0);
    printf("%" PRIu64 " samples, three kinds of arrays and %" PRIu64 " tensors through libstrait.so\n", samples, tensors);
    return 0;
}
