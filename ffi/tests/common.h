/* What the test programs share: shards whose every byte is known, and checks that say where they failed. */
#ifndef COMMON_H
#define COMMON_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <strait.h>
#include <strait_dlpack.h>

static strait_error *error;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, "  error: %s\n", strait_error_message(error));                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A call that must succeed. */
#define OK(call) CHECK((call) == STRAIT_STATUS_OK)

/* A call that must fail so, with a message that has this in it. */
#define FAILS(status, text, call)                                                                  \
    do {                                                                                           \
        CHECK((call) == (status));                                                                 \
        CHECK(error && strstr(strait_error_message(error), text));                                 \
        strait_error_free(error);                                                                  \
        error = NULL;                                                                              \
    } while (0)

/* Valgrind makes everything slow. */
static inline int slow(void) {
    const char *text = getenv("STRAIT_TEST_SLOW");
    return text && *text == '1';
}

static inline unsigned char byte_at(uint64_t record, uint64_t byte) {
    return (unsigned char)(record * 31 + byte * 7 + (byte >> 8) + 5);
}

/* Writes a shard, and opens it. */
static inline strait_dataset *shard(const char *directory, const char *name, unsigned records, unsigned record_bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    CHECK(file);
    for (unsigned record = 0; record < records; record++) {
        for (unsigned byte = 0; byte < record_bytes; byte++) {
            fputc(byte_at(record, byte), file);
        }
    }
    CHECK(!fclose(file));
    strait_dataset_builder *builder;
    strait_dataset *dataset;
    OK(strait_dataset_builder_new(&builder, &error));
    OK(strait_dataset_builder_add_path(builder, path, &error));
    OK(strait_dataset_builder_format(builder, "records", &error));
    OK(strait_dataset_builder_record_bytes(builder, record_bytes, &error));
    OK(strait_dataset_builder_build(builder, &dataset, &error));
    OK(strait_dataset_builder_free(builder));
    return dataset;
}

/* Options that keep the memory small. */
static inline strait_loader_builder *options(const strait_dataset *dataset, size_t batch_size) {
    strait_loader_builder *builder;
    strait_device *host;
    OK(strait_loader_builder_new(dataset, &builder, &error));
    OK(strait_device_host(&host, &error));
    OK(strait_loader_builder_device(builder, host, &error));
    OK(strait_device_free(host));
    OK(strait_loader_builder_batch_size(builder, batch_size, &error));
    OK(strait_loader_builder_block_bytes(builder, 64 << 10, &error));
    OK(strait_loader_builder_reads_in_flight(builder, 8, &error));
    OK(strait_loader_builder_ring(builder, slow() ? "pread" : "auto", &error));
    return builder;
}

static inline strait_loader *build(strait_loader_builder *builder) {
    strait_loader *loader;
    OK(strait_loader_builder_build(builder, &loader, &error));
    OK(strait_loader_builder_free(builder));
    return loader;
}

/* The next batch, or NULL at the end. */
static inline strait_batch *next(strait_loader *loader) {
    strait_batch *batch = NULL;
    strait_status status = strait_loader_next(loader, -1, &batch, &error);
    CHECK(status == STRAIT_STATUS_OK || status == STRAIT_STATUS_END);
    return batch;
}

static inline void check_bytes(const unsigned char *bytes, size_t len, uint64_t record) {
    for (size_t i = 0; i < len; i++) {
        CHECK(bytes[i] == byte_at(record, i));
    }
}

/* Ends a child of a fork by becoming another program: to a leak check at its exit, what its parent's threads hold is lost.
 * For those who include unistd.h. */
#define LEAVE(well) (execl("/bin/sh", "sh", "-c", (well) ? "exit 0" : "exit 1", (char *)NULL), _exit(1))

/* All handles were given back. */
static inline int finish(void) {
    CHECK(!error);
    CHECK(strait_handles_live() == 0);
    puts("ok");
    return 0;
}

#endif
