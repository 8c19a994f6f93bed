/* DLPack tensors: what they say, and that their batch stays until the last of them is gone. */
#include "common.h"

#include <stddef.h>

#define RECORDS 64
#define BYTES 4096

_Static_assert(sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64, "as dlpack.h has them");
_Static_assert(sizeof(DLManagedTensorVersioned) == 80 && sizeof(DLDataType) == 4, "as dlpack.h has them");
_Static_assert(offsetof(DLTensor, dtype) == 20 && offsetof(DLTensor, byte_offset) == 40, "as dlpack.h has them");
_Static_assert(offsetof(DLManagedTensorVersioned, dl_tensor) == 32, "as dlpack.h has them");

static void check(const DLTensor *tensor, uint64_t record) {
    CHECK(tensor->device.device_type == kDLCPU && tensor->device.device_id == 0);
    CHECK(tensor->dtype.code == kDLUInt && tensor->dtype.bits == 8 && tensor->dtype.lanes == 1);
    CHECK(tensor->ndim == 1 && tensor->shape[0] == BYTES && tensor->strides[0] == 1);
    CHECK((uintptr_t)tensor->data % 256 == 0);
    check_bytes((const unsigned char *)tensor->data + tensor->byte_offset, BYTES, record);
}

static unsigned held(strait_loader *loader) {
    /* With `hold` 2 and one batch read ahead, a third batch comes only after one was given back. */
    strait_batch *batch = NULL;
    strait_status status = strait_loader_next(loader, 50, &batch, &error);
    CHECK(status == STRAIT_STATUS_OK || status == STRAIT_STATUS_PENDING);
    if (batch) {
        OK(strait_batch_free(batch));
    }
    return status == STRAIT_STATUS_PENDING;
}

/* Elements of an array that change on the way. */
static void changed(const strait_dataset *dataset) {
    const uint64_t bytes[] = {BYTES}, tokens[] = {BYTES / 4};
    strait_loader_builder *builder = options(dataset, 4);
    FAILS(STRAIT_STATUS_NOT_FOUND, "f33", strait_loader_builder_scale(builder, "record", "f33", 1, 0, &error));
    OK(strait_loader_builder_array(builder, "record", "u8", bytes, 1, &error));
    OK(strait_loader_builder_scale(builder, "record", "f32", 0.5f, -1, &error));
    strait_loader *loader = build(builder);
    OK(strait_loader_begin(loader, 0, &error));
    strait_batch *batch = next(loader);
    DLManagedTensorVersioned *tensor;
    OK(strait_batch_field_tensor(batch, "record", STRAIT_STREAM_NONE, 0, &tensor, &error));
    CHECK(tensor->dl_tensor.dtype.code == kDLFloat && tensor->dl_tensor.dtype.bits == 32);
    CHECK(tensor->dl_tensor.ndim == 2 && tensor->dl_tensor.shape[0] == 4 && tensor->dl_tensor.shape[1] == BYTES);
    const float *numbers = (const float *)((const char *)tensor->dl_tensor.data + tensor->dl_tensor.byte_offset);
    for (uint64_t i = 0; i < 4 * BYTES; i++) {
        CHECK(numbers[i] == (float)byte_at(i / BYTES, i % BYTES) * 0.5f - 1);
    }
    tensor->deleter(tensor);
    OK(strait_batch_free(batch));
    OK(strait_loader_free(loader));

    builder = options(dataset, 4);
    OK(strait_loader_builder_array(builder, "record", "u32", tokens, 1, &error));
    OK(strait_loader_builder_widen(builder, "record", "u16", &error));
    FAILS(STRAIT_STATUS_CONFIG, "no u16 is made of record, which is u32",
          strait_loader_builder_build(builder, &loader, &error));
    OK(strait_loader_builder_free(builder));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    strait_dataset *dataset = shard(argv[1], "tensors.bin", RECORDS, BYTES);
    changed(dataset);
    strait_loader_builder *builder = options(dataset, 4);
    OK(strait_loader_builder_hold(builder, 1, &error));
    OK(strait_loader_builder_prefetch(builder, 1, &error));
    strait_loader *loader = build(builder);
    OK(strait_loader_begin(loader, 0, &error));
    strait_batch *batch = next(loader);

    DLManagedTensorVersioned *first, *second, *region;
    DLManagedTensor *legacy;
    FAILS(STRAIT_STATUS_CONFIG, "host memory", strait_batch_sample_tensor(batch, "record", 0, 1, 0, &first, &error));
    FAILS(STRAIT_STATUS_CONFIG, "flags",
          strait_batch_sample_tensor(batch, "record", 0, STRAIT_STREAM_NONE, 64, &first, &error));
    FAILS(STRAIT_STATUS_CONFIG, "read-only",
          strait_batch_sample_tensor_legacy(batch, "record", 0, STRAIT_STREAM_NONE, STRAIT_TENSOR_READ_ONLY, &legacy,
                                            &error));
    FAILS(STRAIT_STATUS_OUT_OF_RANGE, "sample",
          strait_batch_sample_tensor(batch, "record", 4, STRAIT_STREAM_NONE, 0, &first, &error));
    OK(strait_batch_sample_tensor(batch, "record", 1, STRAIT_STREAM_NONE, STRAIT_TENSOR_READ_ONLY, &first, &error));
    OK(strait_batch_sample_tensor(batch, "record", 2, STRAIT_STREAM_NONE, STRAIT_TENSOR_BYTES, &second, &error));
    OK(strait_batch_sample_tensor_legacy(batch, "record", 3, STRAIT_STREAM_NONE, 0, &legacy, &error));
    OK(strait_batch_region_tensor(batch, STRAIT_STREAM_NONE, 0, &region, &error));
    CHECK(first->version.major == 1 && first->flags == DLPACK_FLAG_BITMASK_READ_ONLY && second->flags == 0);
    CHECK(region->dl_tensor.byte_offset == 0 && region->dl_tensor.shape[0] >= 4 * BYTES);

    /* The handle is gone, four tensors are left: the region must not be filled again. */
    OK(strait_batch_free(batch));
    strait_batch *ahead = next(loader); /* was read ahead */
    OK(strait_batch_free(ahead));
    while (!held(loader)) {
        /* the one region that is free goes around */
        static int rounds;
        if (++rounds == 8) {
            break;
        }
    }
    check(&first->dl_tensor, 1);
    check(&second->dl_tensor, 2);
    check(&legacy->dl_tensor, 3);
    first->deleter(first);
    second->deleter(second);
    check(&legacy->dl_tensor, 3);
    region->deleter(region);
    check(&legacy->dl_tensor, 3);
    /* Tensors outlive the loader too. */
    OK(strait_loader_free(loader));
    check(&legacy->dl_tensor, 3);
    legacy->deleter(legacy);
    legacy = NULL;

    /* A field of all samples as one array, shuffled on the way. */
    builder = options(dataset, 4);
    uint64_t row[] = {32, 64};
    OK(strait_loader_builder_array(builder, "record", "u16", row, 2, &error));
    OK(strait_loader_builder_shuffle(builder, "full", &error));
    loader = build(builder);
    OK(strait_loader_begin(loader, 1, &error));
    batch = next(loader);
    const uint64_t *samples;
    size_t count;
    OK(strait_batch_samples(batch, &samples, &count, &error));
    OK(strait_batch_field_tensor(batch, "record", STRAIT_STREAM_NONE, 0, &first, &error));
    const DLTensor *all = &first->dl_tensor;
    CHECK(all->ndim == 3 && all->shape[0] == 4 && all->shape[1] == 32 && all->shape[2] == 64);
    CHECK(all->strides[0] == 2048 && all->strides[1] == 64 && all->strides[2] == 1);
    CHECK(all->dtype.code == kDLUInt && all->dtype.bits == 16);
    for (size_t i = 0; i < count; i++) {
        check_bytes((const unsigned char *)all->data + all->byte_offset + i * BYTES, BYTES, samples[i]);
    }
    /* A sample knows the type too. */
    OK(strait_batch_sample_tensor(batch, "record", 2, STRAIT_STREAM_NONE, 0, &second, &error));
    CHECK(second->dl_tensor.dtype.bits == 16 && second->dl_tensor.ndim == 2 && second->dl_tensor.shape[1] == 64);
    second->deleter(second);
    FAILS(STRAIT_STATUS_NOT_FOUND, "none of record",
          strait_batch_field_tensor(batch, "jpg", STRAIT_STREAM_NONE, 0, &second, &error));
    OK(strait_batch_free(batch));
    first->deleter(first);
    OK(strait_loader_free(loader));

    /* Thousands of batches by tensors alone: nothing is left behind. */
    loader = build(options(dataset, 8));
    unsigned batches = 0;
    for (uint64_t epoch = 0; epoch < (slow() ? 10 : 1250); epoch++) {
        OK(strait_loader_begin(loader, epoch, &error));
        while ((batch = next(loader))) {
            OK(strait_batch_sample_tensor(batch, "record", batches % 8, STRAIT_STREAM_NONE, 0, &first, &error));
            OK(strait_batch_free(batch));
            CHECK(first->dl_tensor.shape[0] == BYTES);
            first->deleter(first);
            batches++;
        }
    }
    CHECK(batches == (slow() ? 80 : 10000));
    OK(strait_loader_free(loader));
    OK(strait_dataset_free(dataset));
    return finish();
}
