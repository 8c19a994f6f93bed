/*
 * Saves a small checkpoint and loads it, tensor by tensor as they finish.
 *
 *     cc weights.c $(pkg-config --cflags --libs strait) && ./a.out DIRECTORY
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strait.h>

static strait_error *error;

static void must(strait_status status) {
    if (status != STRAIT_STATUS_OK) {
        fprintf(stderr, "%s\n", strait_error_message(error));
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/example.safetensors", argv[1]);
    static float weight[256][128], bias[128];
    uint64_t shape[] = {256, 128};
    strait_device *device;
    strait_save *save;
    must(strait_device_auto(&device, &error)); /* the first GPU, or the host if there is none */
    must(strait_save_new(device, &save, &error));
    must(strait_save_add_host(save, "weight", "f32", shape, 2, weight, sizeof weight, &error));
    must(strait_save_add_host(save, "bias", "f32", shape + 1, 1, bias, sizeof bias, &error));
    must(strait_save_write(save, path, NULL, &error));
    strait_save_free(save);

    strait_checkpoint *checkpoint;
    strait_load_builder *options;
    strait_load *load;
    must(strait_checkpoint_open(path, &checkpoint, &error));
    must(strait_load_builder_new(checkpoint, &options, &error));
    must(strait_load_builder_device(options, device, &error));
    must(strait_load_builder_start(options, &load, &error));
    strait_load_builder_free(options);
    strait_checkpoint_free(checkpoint);
    strait_device_free(device);

    uint64_t all = 0;
    for (;;) {
        strait_tensor *tensor;
        strait_status status = strait_load_next(load, -1, &tensor, &error);
        if (status == STRAIT_STATUS_END) {
            break;
        }
        must(status);
        const char *name, *dtype;
        uint64_t device_ptr, bytes;
        must(strait_tensor_name(tensor, &name, &dtype, NULL, &error));
        must(strait_tensor_device_ptr(tensor, &device_ptr, &bytes, &error));
        must(strait_tensor_wait(tensor, &error)); /* or strait_tensor_wait_on(tensor, stream, &error) */
        printf("%s: %s, %" PRIu64 " bytes at %#" PRIx64 "\n", name, dtype, bytes, device_ptr);
        all += bytes;
        strait_tensor_free(tensor);
    }
    strait_load_free(load);
    remove(path);
    return all == sizeof weight + sizeof bias ? 0 : 1;
}
