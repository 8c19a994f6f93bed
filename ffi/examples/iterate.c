/*
 * Iterates over a dataset and adds up its bytes.
 *
 *     cc iterate.c $(pkg-config --cflags --libs strait) && ./a.out DIRECTORY
 *
 * Raw files in the directory are taken for records of 4096 bytes; tar files and others tell their format themselves.
 */
#include <inttypes.h>
#include <stdio.h>
#include <strait.h>
#include <stdlib.h>

static strait_error *error;

static void must(strait_status status) {
    if (status != STRAIT_STATUS_OK) {
        fprintf(stderr, "%s\n", strait_error_message(error));
        exit(1);
    }
}

/* Of the bytes of a sample's field; 0 if the sample lacks it. */
static uint64_t sum_of(const strait_batch *batch, const char *field, size_t sample) {
    const uint8_t *data;
    size_t len;
    uint64_t sum = 0;
    strait_status status = strait_batch_host_bytes(batch, field, sample, &data, &len, &error);
    if (status == STRAIT_STATUS_ABSENT) {
        return 0;
    }
    must(status);
    for (size_t i = 0; i < len; i++) {
        sum += data[i];
    }
    return sum;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    strait_dataset_builder *paths;
    strait_dataset *dataset;
    must(strait_dataset_builder_new(&paths, &error));
    must(strait_dataset_builder_add_path(paths, argv[1], &error));
    must(strait_dataset_builder_record_bytes(paths, 4096, &error));
    must(strait_dataset_builder_build(paths, &dataset, &error));
    strait_dataset_builder_free(paths);

    strait_loader_builder *options;
    strait_loader *loader;
    strait_device *host;
    must(strait_device_host(&host, &error));
    must(strait_loader_builder_new(dataset, &options, &error));
    must(strait_loader_builder_device(options, host, &error));
    must(strait_loader_builder_batch_size(options, 32, &error));
    must(strait_loader_builder_shuffle(options, "full", &error));
    must(strait_loader_builder_build(options, &loader, &error));
    strait_loader_builder_free(options);
    strait_device_free(host);
    strait_dataset_free(dataset);

    uint64_t batches = 0, samples = 0, sum = 0;
    must(strait_loader_begin(loader, 0, &error));
    for (;;) {
        strait_batch *batch;
        strait_status status = strait_loader_next(loader, -1, &batch, &error);
        if (status == STRAIT_STATUS_END) {
            break;
        }
        must(status);
        size_t count, fields;
        must(strait_batch_len(batch, &count, &error));
        must(strait_batch_fields(batch, &fields, &error));
        for (size_t field = 0; field < fields; field++) {
            const char *name;
            must(strait_batch_field_name(batch, field, &name, NULL, &error));
            for (size_t i = 0; i < count; i++) {
                sum += sum_of(batch, name, i);
            }
        }
        batches++;
        samples += count;
        strait_batch_free(batch);
    }
    strait_loader_free(loader);
    printf("%" PRIu64 " batches, %" PRIu64 " samples, sum %" PRIu64 "\n", batches, samples, sum);
    return 0;
}
