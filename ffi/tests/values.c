/* Every byte of every sample, through each way to them; resume; statistics; a loader that is dropped in mid-epoch. */
#include "common.h"

#define RECORDS 100
#define BYTES 5000

static void check_batch(const strait_batch *batch, unsigned *seen) {
    const uint64_t *samples, *offsets, *lengths;
    size_t count, len;
    uint64_t base, region_bytes, bytes, padded;
    OK(strait_batch_wait(batch, &error));
    OK(strait_batch_samples(batch, &samples, &count, &error));
    OK(strait_batch_len(batch, &len, &error));
    OK(strait_batch_field(batch, "record", &offsets, &lengths, &error));
    OK(strait_batch_device_ptr(batch, &base, &error));
    OK(strait_batch_region_bytes(batch, &region_bytes, &error));
    OK(strait_batch_bytes(batch, &bytes, &error));
    OK(strait_batch_padded(batch, &padded, &error));
    CHECK(len == count && bytes == count * BYTES && padded == 0);
    unsigned char copy[BYTES];
    for (size_t i = 0; i < count; i++) {
        CHECK(lengths[i] == BYTES && offsets[i] + BYTES <= region_bytes);
        const uint8_t *data;
        OK(strait_batch_host_bytes(batch, "record", i, &data, &len, &error));
        CHECK(len == BYTES && (uint64_t)(uintptr_t)data == base + offsets[i]);
        check_bytes(data, len, samples[i]);
        OK(strait_batch_read_back(batch, "record", i, copy, sizeof copy, &len, &error));
        CHECK(len == BYTES && memcmp(copy, data, BYTES) == 0);
        size_t dataset;
        uint64_t id;
        OK(strait_batch_origin(batch, i, &dataset, &id, &error));
        CHECK(dataset == 0 && id == samples[i]);
        seen[samples[i]]++;
    }
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "capacity", strait_batch_read_back(batch, "record", 0, copy, 10, &len, &error));
    const uint8_t *data;
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "sample", strait_batch_host_bytes(batch, "record", count, &data, &len, &error));
    FAILS(STRAIT_STATUS_NOT_FOUND, "none of record", strait_batch_field(batch, "jpg", &offsets, &lengths, &error));
}

static void named_for_nothing(const strait_dataset *dataset) {
    strait_loader_builder *builder = options(dataset, 16);
    strait_loader *loader;
    OK(strait_loader_builder_tokens(builder, "nope", 2, &error));
    FAILS(STRAIT_STATUS_CONFIG, "no field \"nope\"", strait_loader_builder_build(builder, &loader, &error));
    OK(strait_loader_builder_free(builder));
}

static void whole_epochs(const strait_dataset *dataset) {
    strait_loader_builder *builder = options(dataset, 16);
    OK(strait_loader_builder_shuffle(builder, "full", &error));
    OK(strait_loader_builder_seed(builder, 17, &error));
    strait_loader *loader = build(builder);
    uint64_t steps;
    OK(strait_loader_steps(loader, &steps, &error));
    CHECK(steps == 7);
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "epoch", strait_loader_begin(loader, UINT64_MAX, &error));
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        unsigned seen[RECORDS] = {0};
        OK(strait_loader_begin(loader, epoch, &error));
        for (uint64_t step = 0; step < steps; step++) {
            strait_batch *batch = next(loader);
            uint64_t own_epoch, own_step;
            OK(strait_batch_epoch(batch, &own_epoch, &error));
            OK(strait_batch_step(batch, &own_step, &error));
            CHECK(own_epoch == epoch && own_step == step);
            check_batch(batch, seen);
            OK(strait_batch_free(batch));
        }
        CHECK(!next(loader) && !next(loader));
        for (int i = 0; i < RECORDS; i++) {
            CHECK(seen[i] == 1);
        }
    }
    strait_stats *stats;
    uint64_t number;
    const char *text;
    OK(strait_loader_stats(loader, &stats, &error));
    OK(strait_stats_number(stats, "samples", &number, &error));
    CHECK(number == 2 * RECORDS);
    OK(strait_stats_text(stats, "path", &text, &error));
    CHECK(strcmp(text, "direct") == 0);
    for (size_t i = 0; strait_stats_name(i); i++) {
        OK(strait_stats_number(stats, strait_stats_name(i), &number, &error));
    }
    FAILS(STRAIT_STATUS_NOT_FOUND, "batches", strait_stats_number(stats, "x", &number, &error));
    OK(strait_stats_free(stats));
    OK(strait_loader_free(loader));
}

/* Stops after a few batches, goes on in another loader with other batches, and sees every sample once. */
static void resumed(const strait_dataset *dataset) {
    unsigned seen[RECORDS] = {0};
    strait_loader_builder *builder = options(dataset, 10);
    OK(strait_loader_builder_shuffle(builder, "full", &error));
    strait_loader *loader = build(builder);
    OK(strait_loader_begin(loader, 3, &error));
    char saved[4096];
    size_t len;
    for (int step = 0; step < 3; step++) {
        strait_batch *batch = next(loader);
        check_batch(batch, seen);
        strait_cursor *cursor;
        const char *json;
        OK(strait_batch_cursor(batch, &cursor, &error));
        OK(strait_cursor_json(cursor, &json, &len, &error));
        CHECK(len == strlen(json) && len < sizeof saved);
        memcpy(saved, json, len);
        OK(strait_cursor_free(cursor));
        OK(strait_batch_free(batch));
    }
    OK(strait_loader_free(loader)); /* in mid-epoch */

    strait_cursor *cursor;
    uint64_t epoch, consumed, positions;
    OK(strait_cursor_parse(saved, len, &cursor, &error));
    OK(strait_cursor_progress(cursor, &epoch, &consumed, &positions, &error));
    CHECK(epoch == 3 && consumed == 30 && positions == RECORDS);
    builder = options(dataset, 35);
    loader = build(builder);
    FAILS(STRAIT_STATUS_CONFIG, "shuffle", strait_loader_resume(loader, cursor, false, &error));
    OK(strait_loader_free(loader));
    builder = options(dataset, 35);
    OK(strait_loader_builder_shuffle(builder, "full", &error));
    loader = build(builder);
    OK(strait_loader_resume(loader, cursor, false, &error));
    OK(strait_cursor_free(cursor));
    strait_batch *batch = NULL;
    FAILS(STRAIT_STATUS_WRONG_ORDER, "begin", strait_loader_next(loader, -1, &batch, &error));
    OK(strait_loader_begin_rest(loader, &error));
    while ((batch = next(loader))) {
        check_batch(batch, seen);
        OK(strait_batch_free(batch));
    }
    for (int i = 0; i < RECORDS; i++) {
        CHECK(seen[i] == 1);
    }
    OK(strait_loader_cursor(loader, &cursor, &error));
    OK(strait_cursor_progress(cursor, &epoch, NULL, NULL, &error));
    CHECK(epoch == 4);
    OK(strait_cursor_free(cursor));
    OK(strait_loader_free(loader));
    FAILS(STRAIT_STATUS_CONFIG, "cursor", strait_cursor_parse("{}", 2, &cursor, &error));
}

/* A batch that outlives its loader; patience; windows of tokens. */
static void the_rest(const strait_dataset *dataset) {
    unsigned seen[RECORDS] = {0};
    strait_loader *loader = build(options(dataset, 16));
    strait_batch *batch = NULL, *other = NULL;
    FAILS(STRAIT_STATUS_WRONG_ORDER, "begin", strait_loader_next(loader, 0, &batch, &error));
    OK(strait_loader_begin(loader, 0, &error));
    strait_status status;
    while ((status = strait_loader_next(loader, 1, &batch, &error)) == STRAIT_STATUS_PENDING) {
    }
    CHECK(status == STRAIT_STATUS_OK);
    other = next(loader);
    OK(strait_loader_free(loader));
    check_batch(batch, seen);
    check_batch(other, seen);
    FAILS(STRAIT_STATUS_WRONG_ORDER, "windows", strait_batch_window(batch, 0, NULL, NULL, NULL, NULL, &error));
    FAILS(STRAIT_STATUS_CONFIG, "stream", strait_batch_release_on(batch, 7, &error));
    OK(strait_batch_free(batch));
    OK(strait_batch_free(other));

    strait_loader_builder *builder = options(dataset, 4);
    OK(strait_loader_builder_tokens(builder, "record", 2, &error));
    OK(strait_loader_builder_windows(builder, 1000, 1000, &error));
    loader = build(builder);
    OK(strait_loader_begin(loader, 0, &error));
    batch = next(loader);
    size_t pieces;
    const uint32_t *tokens;
    const uint64_t *offsets, *lengths;
    uint64_t document, token, base;
    OK(strait_batch_device_ptr(batch, &base, &error));
    OK(strait_batch_window(batch, 2, &pieces, &tokens, &offsets, &lengths, &error));
    OK(strait_batch_window_piece(batch, 2, 0, &document, &token, &error));
    CHECK(pieces == 1 && tokens[0] == 0 && tokens[1] == 1000 && lengths[0] == 2000 && document == 0 && token == 2000);
    /* 4,000 bytes into the shard: 4,000 bytes into the first record. */
    CHECK(*(const unsigned char *)(uintptr_t)(base + offsets[0]) == byte_at(0, 4000));
    FAILS(STRAIT_STATUS_WRONG_ORDER, "windows", strait_batch_field(batch, "record", &offsets, &lengths, &error));
    OK(strait_batch_free(batch));
    OK(strait_loader_free(loader));
}

/* Two datasets by weight: where samples come from, and how far each dataset is. */
static void mixed(const strait_dataset *dataset, const char *directory) {
    strait_dataset *second = shard(directory, "second.bin", RECORDS, BYTES), *both;
    const strait_dataset *parts[] = {dataset, second};
    OK(strait_dataset_concat(parts, 2, &both, &error));
    OK(strait_dataset_free(second));
    uint64_t samples, bytes, epoch, consumed, used, unusable;
    const char *why;
    bool text, varints;
    OK(strait_dataset_part(both, 1, &samples, &error));
    OK(strait_dataset_largest_sample(both, &bytes, &error));
    CHECK(samples == RECORDS && bytes == BYTES);
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "part", strait_dataset_part(both, 2, &samples, &error));
    OK(strait_dataset_sidecars(both, &used, NULL, &unusable, &why, &error));
    CHECK(used == 0 && unusable == 0 && !why);
    OK(strait_dataset_field_encoding(both, 0, &text, &varints, &error));
    CHECK(!text && !varints);
    strait_loader_builder *builder = options(both, 12);
    uint32_t weights[] = {1, 3};
    OK(strait_loader_builder_mixture(builder, weights, 2, 0, &error));
    OK(strait_dataset_free(both));
    strait_loader *loader = build(builder);
    strait_device *device;
    const char *name;
    OK(strait_loader_device(loader, &device, &error));
    OK(strait_device_name(device, &name, &error));
    CHECK(!strcmp(name, "host"));
    OK(strait_device_free(device));
    OK(strait_loader_begin(loader, 0, &error));
    uint64_t taken[2] = {0};
    for (int step = 0; step < 3; step++) {
        strait_batch *batch = next(loader);
        for (size_t i = 0; i < 12; i++) {
            size_t origin;
            uint64_t id;
            OK(strait_batch_origin(batch, i, &origin, &id, &error));
            CHECK(origin < 2 && id == taken[origin]);
            taken[origin]++;
        }
        for (size_t own = 0; own < 2; own++) {
            OK(strait_batch_dataset(batch, own, &epoch, &consumed, &error));
            CHECK(epoch == 0 && consumed == taken[own]);
        }
        FAILS(STRAIT_STATUS_OUT_OF_RANGE, "dataset", strait_batch_dataset(batch, 2, &epoch, &consumed, &error));
        OK(strait_batch_free(batch));
    }
    CHECK(taken[0] == 9 && taken[1] == 27);
    OK(strait_loader_free(loader));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    strait_dataset *dataset = shard(argv[1], "values.bin", RECORDS, BYTES);
    uint64_t len, bytes, samples, fixed_bytes;
    size_t number;
    const char *name, *path, *dtype;
    OK(strait_dataset_len(dataset, &len, &error));
    OK(strait_dataset_shards(dataset, &number, &error));
    OK(strait_dataset_shard(dataset, 0, &path, &bytes, &samples, &error));
    CHECK(len == RECORDS && number == 1 && bytes == RECORDS * BYTES && samples == RECORDS && strstr(path, "values.bin"));
    OK(strait_dataset_fields(dataset, &number, &error));
    OK(strait_dataset_field(dataset, 0, &name, &dtype, &fixed_bytes, &error));
    CHECK(number == 1 && strcmp(name, "record") == 0 && !dtype && fixed_bytes == BYTES);
    OK(strait_dataset_extent(dataset, 7, 0, &number, &bytes, &samples, &error));
    CHECK(number == 0 && bytes == 7 * BYTES && samples == BYTES);
    OK(strait_dataset_format(dataset, &name, &error));
    CHECK(strcmp(name, "records") == 0);
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", STRAIT_VERSION_MAJOR, STRAIT_VERSION_MINOR, STRAIT_VERSION_PATCH);
    CHECK(!strcmp(version, strait_version()));
    named_for_nothing(dataset);
    whole_epochs(dataset);
    resumed(dataset);
    the_rest(dataset);
    mixed(dataset, argv[1]);
    OK(strait_dataset_free(dataset));
    return finish();
}
