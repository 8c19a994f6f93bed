/* One live and one freed handle of each kind, for the misuse that xtask makes of the header. */
#ifndef MISUSE_FIXTURE_H
#define MISUSE_FIXTURE_H

#include "common.h"

static strait_device *live_strait_device, *freed_strait_device;
static strait_error *live_strait_error, *freed_strait_error;
static strait_dataset_builder *live_strait_dataset_builder, *freed_strait_dataset_builder;
static strait_dataset *live_strait_dataset, *freed_strait_dataset;
static strait_loader_builder *live_strait_loader_builder, *freed_strait_loader_builder;
static strait_loader *live_strait_loader, *freed_strait_loader;
static strait_batch *live_strait_batch, *freed_strait_batch;
static strait_cursor *live_strait_cursor, *freed_strait_cursor;
static strait_stats *live_strait_stats, *freed_strait_stats;
static strait_checkpoint *live_strait_checkpoint, *freed_strait_checkpoint;
static strait_load_builder *live_strait_load_builder, *freed_strait_load_builder;
static strait_load *live_strait_load, *freed_strait_load;
static strait_tensor *live_strait_tensor, *freed_strait_tensor;
static strait_save *live_strait_save, *freed_strait_save;
static strait_saved *live_strait_saved, *freed_strait_saved;

static strait_device_vtable table;
static unsigned char memory[8192];
static const void *array[1];
static uint64_t output[8];
static unsigned calls;

static inline void fixture_strait_log(void *context, uint32_t level, const char *source, const char *message) {
    (void)context, (void)level, (void)source, (void)message;
}

static inline bool fixture_strait_filter(void *context, size_t tensor) {
    (void)context, (void)tensor;
    return true;
}

static inline void fixture_strait_release(void *owner) {
    (void)owner;
}

/* A status of that name; where it is an error, it names the argument. */
#define expect(name, argument, call)                                                               \
    do {                                                                                           \
        strait_status status = (call);                                                             \
        calls++;                                                                                   \
        if (status != STRAIT_STATUS_##name) {                                                      \
            fprintf(stderr, "%s: %d, not " #name ": %s\n", #call, (int)status,                     \
                    strait_error_message(error));                                                  \
            exit(1);                                                                               \
        }                                                                                          \
        if (error && !strstr(strait_error_message(error), argument)) {                             \
            fprintf(stderr, "%s: does not name " argument ": %s\n", #call,                         \
                    strait_error_message(error));                                                  \
            exit(1);                                                                               \
        }                                                                                          \
        strait_error_free(error);                                                                  \
        error = NULL;                                                                              \
    } while (0)

/* Any status will do. */
#define any(call)                                                                                  \
    do {                                                                                           \
        (void)(call);                                                                              \
        calls++;                                                                                   \
        strait_error_free(error);                                                                  \
        error = NULL;                                                                              \
    } while (0)

static inline void fixture(int argc, char **argv) {
    CHECK(argc == 2);
    table.size = sizeof table;
    live_strait_dataset = shard(argv[1], "misuse.bin", 64, 4096);
    freed_strait_dataset = shard(argv[1], "misuse.bin", 64, 4096);
    OK(strait_dataset_free(freed_strait_dataset));
    OK(strait_device_host(&live_strait_device, &error));
    OK(strait_device_host(&freed_strait_device, &error));
    OK(strait_device_free(freed_strait_device));
    OK(strait_dataset_builder_new(&live_strait_dataset_builder, &error));
    OK(strait_dataset_builder_new(&freed_strait_dataset_builder, &error));
    OK(strait_dataset_builder_free(freed_strait_dataset_builder));
    live_strait_loader_builder = options(live_strait_dataset, 8);
    freed_strait_loader_builder = options(live_strait_dataset, 8);
    live_strait_loader = build(options(live_strait_dataset, 8));
    freed_strait_loader = build(freed_strait_loader_builder);
    OK(strait_loader_begin(live_strait_loader, 0, &error));
    live_strait_batch = next(live_strait_loader);
    freed_strait_batch = next(live_strait_loader);
    OK(strait_batch_free(freed_strait_batch));
    OK(strait_loader_cursor(live_strait_loader, &live_strait_cursor, &error));
    OK(strait_loader_cursor(live_strait_loader, &freed_strait_cursor, &error));
    OK(strait_cursor_free(freed_strait_cursor));
    OK(strait_loader_stats(live_strait_loader, &live_strait_stats, &error));
    OK(strait_loader_stats(live_strait_loader, &freed_strait_stats, &error));
    OK(strait_stats_free(freed_strait_stats));
    OK(strait_loader_free(freed_strait_loader));
    char path[4096];
    snprintf(path, sizeof path, "%s/misuse.safetensors", argv[1]);
    uint64_t shape[] = {8192};
    OK(strait_save_new(live_strait_device, &live_strait_save, &error));
    OK(strait_save_new(live_strait_device, &freed_strait_save, &error));
    OK(strait_save_ring(freed_strait_save, slow() ? "pread" : "auto", &error));
    OK(strait_save_add_host(freed_strait_save, "a", "u8", shape, 1, memory, sizeof memory, &error));
    OK(strait_save_add_host(freed_strait_save, "b", "u8", shape, 1, memory, sizeof memory, &error));
    OK(strait_save_write(freed_strait_save, path, &live_strait_saved, &error));
    OK(strait_save_write(freed_strait_save, path, &freed_strait_saved, &error));
    OK(strait_saved_free(freed_strait_saved));
    OK(strait_save_free(freed_strait_save));
    /* Writes nothing, whoever asks: no block is a byte. */
    OK(strait_save_block_bytes(live_strait_save, 1, &error));
    OK(strait_save_add_host(live_strait_save, "a", "u8", shape, 1, memory, sizeof memory, &error));
    OK(strait_save_add_host(live_strait_save, "b", "u8", shape, 1, memory, sizeof memory, &error));
    OK(strait_checkpoint_open(path, &live_strait_checkpoint, &error));
    OK(strait_checkpoint_open(path, &freed_strait_checkpoint, &error));
    OK(strait_checkpoint_free(freed_strait_checkpoint));
    OK(strait_load_builder_new(live_strait_checkpoint, &live_strait_load_builder, &error));
    OK(strait_load_builder_device(live_strait_load_builder, live_strait_device, &error));
    OK(strait_load_builder_new(live_strait_checkpoint, &freed_strait_load_builder, &error));
    OK(strait_load_builder_device(freed_strait_load_builder, live_strait_device, &error));
    OK(strait_load_builder_ring(freed_strait_load_builder, slow() ? "pread" : "auto", &error));
    OK(strait_load_builder_start(freed_strait_load_builder, &live_strait_load, &error));
    OK(strait_load_builder_free(freed_strait_load_builder));
    OK(strait_load_builder_new(live_strait_checkpoint, &freed_strait_load_builder, &error));
    OK(strait_load_builder_device(freed_strait_load_builder, live_strait_device, &error));
    OK(strait_load_builder_ring(freed_strait_load_builder, slow() ? "pread" : "auto", &error));
    OK(strait_load_builder_start(freed_strait_load_builder, &freed_strait_load, &error));
    OK(strait_load_builder_free(freed_strait_load_builder));
    OK(strait_load_free(freed_strait_load));
    OK(strait_load_next(live_strait_load, -1, &live_strait_tensor, &error));
    OK(strait_load_next(live_strait_load, -1, &freed_strait_tensor, &error));
    OK(strait_tensor_free(freed_strait_tensor));
    CHECK(strait_dataset_len(live_strait_dataset, NULL, &live_strait_error) == STRAIT_STATUS_NULL_ARGUMENT);
    CHECK(strait_dataset_len(live_strait_dataset, NULL, &freed_strait_error) == STRAIT_STATUS_NULL_ARGUMENT);
    OK(strait_error_free(freed_strait_error));
}

/* What was live still is. */
static inline int fixture_end(unsigned functions) {
    OK(strait_error_free(live_strait_error));
    OK(strait_stats_free(live_strait_stats));
    OK(strait_cursor_free(live_strait_cursor));
    OK(strait_batch_free(live_strait_batch));
    OK(strait_loader_free(live_strait_loader));
    OK(strait_loader_builder_free(live_strait_loader_builder));
    OK(strait_dataset_builder_free(live_strait_dataset_builder));
    OK(strait_tensor_free(live_strait_tensor));
    OK(strait_load_free(live_strait_load));
    OK(strait_load_builder_free(live_strait_load_builder));
    OK(strait_checkpoint_free(live_strait_checkpoint));
    OK(strait_save_free(live_strait_save));
    OK(strait_saved_free(live_strait_saved));
    OK(strait_log_to(0, NULL, NULL, &error));
    OK(strait_device_free(live_strait_device));
    OK(strait_dataset_free(live_strait_dataset));
    CHECK(strait_handles_live() == 0);
    printf("%u calls of %u functions, each with one thing wrong\n", calls, functions);
    return 0;
}

#endif
