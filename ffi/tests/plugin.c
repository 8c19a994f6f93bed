/* A loader over a device in C: bytes, streams and fences, and a driver's error with its code. */
#include "../examples/sample_device/sample_device.c"

#include "common.h"

#include <stddef.h>

#define RECORDS 96
#define BYTES 3000

static sample_device *own;

static int32_t (*own_wait_on)(void *device, void *stream, uint64_t mark, void *consumer);
static unsigned waits;

static int32_t counted_wait_on(void *device, void *stream, uint64_t mark, void *consumer) {
    waits++;
    return own_wait_on(device, stream, mark, consumer);
}

enum way { RELEASE, TENSOR, TWO_STREAMS, TWO_STREAMS_SLOW_LAST };

/* A stream that takes its time: whatever else comes, the batch that it reads is not filled again before. */
static void slow_stream(const strait_dataset *dataset, enum way way) {
    strait_device_vtable table;
    sample_device *device = sample_device_new(&table);
    strait_device *custom;
    OK(strait_device_custom(&table, device, &custom, &error));
    strait_loader_builder *builder = options(dataset, 4);
    OK(strait_loader_builder_device(builder, custom, &error));
    OK(strait_loader_builder_hold(builder, 1, &error));
    OK(strait_loader_builder_prefetch(builder, 1, &error));
    OK(strait_device_free(custom));
    strait_loader *loader = build(builder);
    void *slow_one = sample_consumer_new(device), *fast = sample_consumer_new(device);
    int64_t on_slow = (int64_t)(intptr_t)slow_one, on_fast = (int64_t)(intptr_t)fast;
    OK(strait_loader_begin(loader, 0, &error));
    strait_batch *batch = next(loader);
    const uint64_t *offsets, *lengths;
    uint64_t base, offset;
    OK(strait_batch_device_ptr(batch, &base, &error));
    OK(strait_batch_field(batch, "record", &offsets, &lengths, &error));
    offset = offsets[0];
    OK(strait_batch_wait(batch, &error));
    sample_consumer_pause(slow_one, true);
    static unsigned char bytes[BYTES];
    sample_consumer_read(slow_one, base + offset, bytes, BYTES);
    DLManagedTensorVersioned *first, *second;
    switch (way) {
    case RELEASE: OK(strait_batch_release_on(batch, on_slow, &error)); break;
    case TENSOR:
        OK(strait_batch_region_tensor(batch, on_slow, 0, &first, &error));
        OK(strait_batch_free(batch));
        first->deleter(first);
        break;
    default:
        OK(strait_batch_region_tensor(batch, way == TWO_STREAMS ? on_slow : on_fast, 0, &first, &error));
        OK(strait_batch_region_tensor(batch, way == TWO_STREAMS ? on_fast : on_slow, 0, &second, &error));
        OK(strait_batch_free(batch));
        second->deleter(second);
        first->deleter(first);
    }
    /* As many batches as come: once their turn is the region that is read, none. */
    strait_status status;
    unsigned batches = 0;
    while ((status = strait_loader_next(loader, 150, &batch, &error)) == STRAIT_STATUS_OK && batches++ < 12) {
        OK(strait_batch_free(batch));
    }
    sample_consumer_pause(slow_one, false);
    sample_consumer_wait(slow_one);
    check_bytes(bytes, BYTES, 0);
    if (status == STRAIT_STATUS_OK) {
        strait_batch_free(batch);
    }
    OK(strait_loader_free(loader));
    sample_consumer_free(slow_one);
    sample_consumer_free(fast);
}

/* Host memory that a device has pinned, as CUDA's would be: the host reads it, and streams do. */
static void pinned_host(const strait_dataset *dataset) {
    strait_device_vtable table;
    sample_device *device = sample_device_new(&table);
    table.dlpack_type = kDLCUDA;
    strait_device *accelerator, *pinned;
    int32_t type, id;
    OK(strait_device_custom(&table, device, &accelerator, &error));
    OK(strait_device_pinned_host(accelerator, &pinned, &error));
    OK(strait_device_free(accelerator));
    OK(strait_device_dlpack(pinned, &type, &id, &error));
    CHECK(type == kDLCUDAHost && id == 0);
    strait_loader_builder *builder = options(dataset, 8);
    OK(strait_loader_builder_device(builder, pinned, &error));
    OK(strait_device_free(pinned));
    strait_loader *loader = build(builder);
    OK(strait_loader_begin(loader, 0, &error));
    strait_batch *batch = next(loader);
    DLManagedTensorVersioned *tensor;
    FAILS(STRAIT_STATUS_CONFIG, "legacy default stream", strait_batch_region_tensor(batch, 0, 0, &tensor, &error));
    void *stream = sample_consumer_new(device);
    OK(strait_batch_sample_tensor(batch, "record", 5, (int64_t)(intptr_t)stream, 0, &tensor, &error));
    CHECK(tensor->dl_tensor.device.device_type == kDLCUDAHost);
    check_bytes((const unsigned char *)tensor->dl_tensor.data + tensor->dl_tensor.byte_offset, BYTES, 5);
    OK(strait_batch_free(batch));
    tensor->deleter(tensor); /* waits for the stream */
    OK(strait_loader_free(loader));
    sample_consumer_free(stream);
}

/* Elements that change on the way: by the device's own function, or not at all. */
static void wide(const strait_dataset *dataset) {
    strait_device_vtable table;
    sample_device *device = sample_device_new(&table);
    for (int with = 1; with >= 0; with--) {
        strait_device *custom;
        if (!with) { /* as a table of an earlier version */
            device = sample_device_new(&table);
            table.size = offsetof(strait_device_vtable, cast);
        }
        OK(strait_device_custom(&table, device, &custom, &error));
        strait_loader_builder *builder = options(dataset, 8);
        OK(strait_loader_builder_device(builder, custom, &error));
        OK(strait_device_free(custom));
        OK(strait_loader_builder_array(builder, "record", "u16", (const uint64_t[]){BYTES / 2}, 1, &error));
        OK(strait_loader_builder_widen(builder, "record", "i64", &error));
        if (!with) {
            strait_loader *none;
            FAILS(STRAIT_STATUS_CONFIG, "has no `cast`", strait_loader_builder_build(builder, &none, &error));
            OK(strait_loader_builder_free(builder));
            break;
        }
        strait_loader *loader = build(builder);
        void *stream = sample_consumer_new(device);
        OK(strait_loader_begin(loader, 0, &error));
        strait_batch *batch = next(loader);
        DLManagedTensorVersioned *tensor;
        OK(strait_batch_field_tensor(batch, "record", (int64_t)(intptr_t)stream, 0, &tensor, &error));
        CHECK(tensor->dl_tensor.dtype.code == kDLInt && tensor->dl_tensor.dtype.bits == 64);
        static int64_t tokens[8][BYTES / 2];
        sample_consumer_read(stream, (uint64_t)(uintptr_t)tensor->dl_tensor.data + tensor->dl_tensor.byte_offset, tokens,
                             sizeof tokens);
        sample_consumer_wait(stream);
        for (unsigned record = 0; record < 8; record++) {
            for (unsigned i = 0; i < BYTES / 2; i++) {
                CHECK(tokens[record][i] == byte_at(record, 2 * i) + 256 * byte_at(record, 2 * i + 1));
            }
        }
        tensor->deleter(tensor);
        OK(strait_batch_free(batch));
        OK(strait_loader_free(loader));
        sample_consumer_free(stream);
    }
}

static strait_loader *on_device(const strait_dataset *dataset) {
    strait_device_vtable table;
    own = sample_device_new(&table);
    own_wait_on = table.wait_on;
    table.wait_on = counted_wait_on;
    strait_device *device;
    int32_t type, id;
    const char *name;
    OK(strait_device_custom(&table, own, &device, &error));
    OK(strait_device_dlpack(device, &type, &id, &error));
    OK(strait_device_name(device, &name, &error));
    CHECK(type == 12 && id == 3 && strcmp(name, "sample:3") == 0);
    strait_loader_builder *builder = options(dataset, 8);
    OK(strait_loader_builder_device(builder, device, &error));
    OK(strait_loader_builder_deadline_ms(builder, 20000, &error));
    OK(strait_device_free(device));
    return build(builder);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    strait_dataset *dataset = shard(argv[1], "plugin.bin", RECORDS, BYTES);
    strait_device_vtable table = {0};
    strait_device *device;
    FAILS(STRAIT_STATUS_CONFIG, "size", strait_device_custom(&table, NULL, &device, &error));
    table.size = sizeof table;
    table.name = "half";
    FAILS(STRAIT_STATUS_NULL_ARGUMENT, "vtable.allocate", strait_device_custom(&table, NULL, &device, &error));

    for (enum way way = RELEASE; way <= TWO_STREAMS_SLOW_LAST; way++) {
        slow_stream(dataset, way);
    }
    pinned_host(dataset);
    wide(dataset);

    strait_loader *loader = on_device(dataset);
    void *stream = sample_consumer_new(own), *second = sample_consumer_new(own);
    int64_t on = (int64_t)(intptr_t)stream, on_second = (int64_t)(intptr_t)second;
    unsigned char bytes[8][BYTES], again[BYTES];
    unsigned samples_seen = 0;
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        OK(strait_loader_begin(loader, epoch, &error));
        strait_batch *batch;
        while ((batch = next(loader))) {
            const uint64_t *samples, *offsets, *lengths;
            size_t count;
            uint64_t base;
            OK(strait_batch_samples(batch, &samples, &count, &error));
            OK(strait_batch_device_ptr(batch, &base, &error));
            OK(strait_batch_field(batch, "record", &offsets, &lengths, &error));
            CHECK(count == 8);
            uint64_t first = samples[0], fourth = samples[3];
            if (epoch == 0) {
                /* The host is not blocked: the stream waits, reads, and the batch comes back behind it. */
                unsigned before = waits;
                OK(strait_batch_wait_on(batch, on, &error));
                CHECK(waits == before + 1);
                for (size_t i = 0; i < count; i++) {
                    sample_consumer_read(stream, base + offsets[i], bytes[i], BYTES);
                }
                OK(strait_batch_release_on(batch, on, &error));
            } else {
                /* The same by tensors; in the last epoch for two streams, of which the batch waits for both. */
                DLManagedTensorVersioned *tensor, *other = NULL;
                OK(strait_batch_sample_tensor(batch, "record", 0, on, 0, &tensor, &error));
                CHECK(tensor->dl_tensor.device.device_type == kDLExtDev && tensor->dl_tensor.device.device_id == 3);
                CHECK((uint64_t)(uintptr_t)tensor->dl_tensor.data == base);
                for (size_t i = 0; i < count; i++) {
                    sample_consumer_read(stream, base + offsets[i], bytes[i], BYTES);
                }
                if (epoch == 2) {
                    OK(strait_batch_sample_tensor(batch, "record", 3, on_second, 0, &other, &error));
                    sample_consumer_read(second, base + other->dl_tensor.byte_offset, again, BYTES);
                }
                OK(strait_batch_free(batch));
                tensor->deleter(tensor);
                if (other) {
                    other->deleter(other);
                    sample_consumer_wait(second);
                    check_bytes(again, BYTES, fourth);
                }
            }
            sample_consumer_wait(stream);
            for (size_t i = 0; i < 8; i++) {
                check_bytes(bytes[i], BYTES, first + i);
                samples_seen++;
            }
        }
    }
    CHECK(samples_seen == 3 * RECORDS);
    CHECK(sample_device_violations(own) == 0);

    /* Not for the host; and copied back. */
    OK(strait_loader_begin(loader, 9, &error));
    strait_batch *batch = next(loader);
    const uint8_t *data;
    size_t len;
    FAILS(STRAIT_STATUS_CONFIG, "not the host's", strait_batch_host_bytes(batch, "record", 0, &data, &len, &error));
    OK(strait_batch_read_back(batch, "record", 5, again, sizeof again, &len, &error));
    check_bytes(again, len, 5);
    OK(strait_batch_free(batch));

    /* A lost device is an error that has its code. */
    sample_device_inject(own, SAMPLE_LOST);
    strait_status status;
    while ((status = strait_loader_next(loader, -1, &batch, &error)) == STRAIT_STATUS_OK) {
        OK(strait_batch_free(batch));
    }
    CHECK(status == STRAIT_STATUS_DEVICE && strait_error_status(error) == STRAIT_STATUS_DEVICE);
    CHECK(strait_error_device_code(error) == 900 && strstr(strait_error_message(error), "SAMPLE_LOST"));
    strait_error_free(error);
    error = NULL;
    sample_device_inject(own, SAMPLE_NONE);
    sample_consumer_free(stream);
    sample_consumer_free(second);
    OK(strait_loader_free(loader));
    OK(strait_dataset_free(dataset));
    return finish();
}
