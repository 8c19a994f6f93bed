/*
 * The C ABI on a CUDA device: every byte of loaders and of a checkpoint is compared, arrays by DLPack among them.
 *
 *     c_check DIRECTORY ORDINAL          "host" in place of the ordinal: the same in host memory
 *
 * Exit code 3: there is no such device. `scripts/gpu-check` builds it against libstrait.so.
 */
#include "common.h"

#define RECORDS 500
#define BYTES 5000
#define BATCH 16

static strait_device *device;
static unsigned char kept[BATCH * BYTES];

/* A device of the command line; none: says so, and ends with 3. */
static void open_device(const char *name) {
    strait_status status =
        strcmp(name, "host") ? strait_device_cuda((uint32_t)atoi(name), &device, &error) : strait_device_host(&device, &error);
    if (status != STRAIT_STATUS_OK) {
        puts(strait_error_message(error));
        exit(3);
    }
}

/* Every sample as it was read, and, by the array's deleter alone, given back. */
static uint64_t loaders(const char *directory) {
    strait_dataset *dataset = shard(directory, "c_check.bin", RECORDS, BYTES);
    uint64_t shape[] = {BYTES}, samples = 0;
    for (int arrays = 0; arrays < 2; arrays++) {
        strait_loader_builder *builder = options(dataset, BATCH);
        OK(strait_loader_builder_device(builder, device, &error));
        OK(strait_loader_builder_shuffle(builder, "full", &error));
        OK(strait_loader_builder_policy(builder, "short", &error));
        if (arrays) {
            OK(strait_loader_builder_array(builder, "record", "u8", shape, 1, &error));
        }
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
            if (arrays) {
                DLManagedTensorVersioned *tensor;
                OK(strait_batch_wait(batch, &error));
                OK(strait_batch_field_tensor(batch, "record", STRAIT_STREAM_NONE, 0, &tensor, &error));
                CHECK(tensor->dl_tensor.ndim == 2 && tensor->dl_tensor.shape[0] == (int64_t)count);
                CHECK(tensor->dl_tensor.shape[1] == BYTES);
                OK(strait_batch_free(batch));
                tensor->deleter(tensor);
            } else {
                OK(strait_batch_free(batch));
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
    CHECK(samples == 2 * RECORDS && tensors == 3);
    OK(strait_device_free(device));
    CHECK(strait_handles_live() == 0);
    printf("%" PRIu64 " samples and %" PRIu64 " tensors through libstrait.so\n", samples, tensors);
    return 0;
}
