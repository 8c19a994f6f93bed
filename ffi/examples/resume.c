/*
 * Takes a few batches, saves the cursor, and goes on from it in a new loader with batches of another size.
 *
 *     cc resume.c $(pkg-config --cflags --libs strait) && ./a.out DIRECTORY
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strait.h>
#include <string.h>

static strait_error *error;

static void must(strait_status status) {
    if (status != STRAIT_STATUS_OK) {
        fprintf(stderr, "%s\n", strait_error_message(error));
        exit(1);
    }
}

static strait_loader *loader_of(const strait_dataset *dataset, size_t batch_size) {
    strait_loader_builder *options;
    strait_loader *loader;
    strait_device *host;
    must(strait_device_host(&host, &error));
    must(strait_loader_builder_new(dataset, &options, &error));
    must(strait_loader_builder_device(options, host, &error));
    must(strait_loader_builder_batch_size(options, batch_size, &error));
    must(strait_loader_builder_shuffle(options, "full", &error));
    must(strait_loader_builder_seed(options, 17, &error));
    must(strait_loader_builder_build(options, &loader, &error));
    strait_loader_builder_free(options);
    strait_device_free(host);
    return loader;
}

/* Takes at most `batches` batches; the number of samples in them. */
static uint64_t take(strait_loader *loader, unsigned batches, char **saved) {
    uint64_t samples = 0;
    strait_batch *batch;
    strait_status status = STRAIT_STATUS_OK;
    while (batches-- && (status = strait_loader_next(loader, -1, &batch, &error)) == STRAIT_STATUS_OK) {
        size_t count;
        must(strait_batch_len(batch, &count, &error));
        samples += count;
        if (saved) {
            /* What a trainer saves with its checkpoint once the step is done. */
            strait_cursor *cursor;
            const char *json;
            must(strait_batch_cursor(batch, &cursor, &error));
            must(strait_cursor_json(cursor, &json, NULL, &error));
            free(*saved);
            *saved = malloc(strlen(json) + 1);
            strcpy(*saved, json);
            strait_cursor_free(cursor);
        }
        strait_batch_free(batch);
    }
    must(status == STRAIT_STATUS_END ? STRAIT_STATUS_OK : status);
    return samples;
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

    char *saved = NULL;
    strait_loader *loader = loader_of(dataset, 16);
    must(strait_loader_begin(loader, 0, &error));
    uint64_t before = take(loader, 3, &saved);
    strait_loader_free(loader);

    strait_cursor *cursor;
    must(strait_cursor_parse(saved, strlen(saved), &cursor, &error));
    loader = loader_of(dataset, 50);
    must(strait_loader_resume(loader, cursor, false, &error));
    must(strait_loader_begin_rest(loader, &error));
    uint64_t after = take(loader, 1000, NULL), all;
    must(strait_dataset_len(dataset, &all, &error));
    printf("%" PRIu64 " samples before, %" PRIu64 " after, of %" PRIu64 "\n%s\n", before, after, all, saved);
    strait_cursor_free(cursor);
    strait_loader_free(loader);
    strait_dataset_free(dataset);
    free(saved);
    return before + after == all ? 0 : 1;
}
