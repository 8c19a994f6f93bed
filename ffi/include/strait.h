/*
 * strait: streams training shards and model weights from NVMe into GPU memory.
 *
 * Made of the sources of strait-ffi by `cargo xtask header`; do not edit.
 *
 * Conventions
 *
 * - Objects are handles: opaque, to be passed around and given back with the function that ends in _free. They are no
 *   addresses, and nothing follows them: a handle that was freed, is of another kind, or was made before a fork() is
 *   answered with STRAIT_STATUS_BAD_HANDLE. After a fork the child makes its own.
 * - A function that takes a pointer to const only reads the object.
 * - Functions return a strait_status, take inputs first and outputs last, and write outputs only on STRAIT_STATUS_OK. The
 *   outputs of one call are different variables. A pointer that must not be NULL and is: STRAIT_STATUS_NULL_ARGUMENT.
 * - The very last parameter is where an error goes that says more (see Errors); it may be NULL.
 * - Texts are NUL-terminated UTF-8, paths NUL-terminated bytes. Inputs need to last for the call only. Arrays come with
 *   their length, and may be NULL where that is 0.
 * - Every function may be called from any thread at any time. What that means for an object is said at its type. A
 *   handle that is freed during another thread's call ends with that call; texts and arrays that it gave out do not wait.
 * - Sizes are in bytes and times in the unit that the name ends in.
 */
#ifndef STRAIT_H
#define STRAIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As dlpack.h declares them; include that, or strait_dlpack.h, to look inside. */
typedef struct DLManagedTensor DLManagedTensor;
typedef struct DLManagedTensorVersioned DLManagedTensorVersioned;

/**
 * A level of the log: something went wrong that no call could return.
 */
#define STRAIT_LOG_ERROR 1

/**
 * A level of the log: it works, but not as it was wanted or could.
 */
#define STRAIT_LOG_WARNING 2

/**
 * A level of the log: what was chosen.
 */
#define STRAIT_LOG_INFO 3

/**
 * A level of the log: for those who look for a fault.
 */
#define STRAIT_LOG_DEBUG 4

/**
 * The version of this header: what a program is compiled for. `strait_version` tells what it runs with.
 */
#define STRAIT_VERSION_MAJOR 0

/**
 * See `STRAIT_VERSION_MAJOR`.
 */
#define STRAIT_VERSION_MINOR 1

/**
 * See `STRAIT_VERSION_MAJOR`.
 */
#define STRAIT_VERSION_PATCH 0

/**
 * What is not known, or not the same for all; the length of a field that a sample does not have.
 */
#define STRAIT_UNKNOWN UINT64_MAX

/**
 * No stream.
 */
#define STRAIT_STREAM_NONE -1

/**
 * A flag of tensors: the consumer may not write to it.
 */
#define STRAIT_TENSOR_READ_ONLY 1

/**
 * A flag of tensors: plain bytes, whatever the type of the field's elements is.
 */
#define STRAIT_TENSOR_BYTES 2

/**
 * What a function returns.
 */
enum strait_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It was done; outputs are written.
     */
    STRAIT_STATUS_OK = 0,
    /**
     * An option that cannot be met; nothing was started.
     */
    STRAIT_STATUS_CONFIG = 1,
    /**
     * A file or directory could not be opened or examined.
     */
    STRAIT_STATUS_OPEN = 2,
    /**
     * A shard or an index is not what its format demands.
     */
    STRAIT_STATUS_FORMAT = 3,
    /**
     * A shard is no longer the file that was indexed.
     */
    STRAIT_STATUS_CHANGED = 4,
    /**
     * A shard ended inside an extent that its index promises.
     */
    STRAIT_STATUS_TRUNCATED = 5,
    /**
     * The storage failed.
     */
    STRAIT_STATUS_IO = 6,
    /**
     * Something did not happen in time; the message says what.
     */
    STRAIT_STATUS_TIMEOUT = 7,
    /**
     * Memory could not be had.
     */
    STRAIT_STATUS_MEMORY = 8,
    /**
     * A batch needs more bytes than there is room for.
     */
    STRAIT_STATUS_BATCH_TOO_LARGE = 9,
    /**
     * A storage backend refused to work at all.
     */
    STRAIT_STATUS_RING = 10,
    /**
     * A device, or its driver, failed a call.
     */
    STRAIT_STATUS_DEVICE = 11,
    /**
     * There is no such device here: an ordinary answer.
     */
    STRAIT_STATUS_NO_DEVICE = 12,
    /**
     * The engine is gone; the loader must be built anew.
     */
    STRAIT_STATUS_STOPPED = 13,
    /**
     * A sample cannot be read, and the policy for bad samples does not forgive it.
     */
    STRAIT_STATUS_BAD_SAMPLE = 14,
    /**
     * Bytes that were read are not those that their checksum was made of.
     */
    STRAIT_STATUS_CORRUPT = 15,
    /**
     * A file could not be written. What was there before under its name is still there.
     */
    STRAIT_STATUS_WRITE = 16,
    /**
     * A tensor cannot be read.
     */
    STRAIT_STATUS_TENSOR = 17,
    /**
     * The end of the epoch. Not an error; no output is written.
     */
    STRAIT_STATUS_END = 100,
    /**
     * Not yet: ask again. Not an error; no output is written.
     */
    STRAIT_STATUS_PENDING = 101,
    /**
     * This sample does not have that field. Not an error; no output is written.
     */
    STRAIT_STATUS_ABSENT = 102,
    /**
     * A pointer that must not be NULL is; the message names the argument.
     */
    STRAIT_STATUS_NULL_ARGUMENT = 200,
    /**
     * Not a live handle of that kind: freed, never made, of another kind, or made before a fork.
     */
    STRAIT_STATUS_BAD_HANDLE = 201,
    /**
     * An earlier call with this handle panicked; it can only be freed.
     */
    STRAIT_STATUS_POISONED = 202,
    /**
     * This call panicked: a bug in strait. Its handles are poisoned.
     */
    STRAIT_STATUS_PANIC = 203,
    /**
     * Too early or too late for this call; the message says what comes first.
     */
    STRAIT_STATUS_WRONG_ORDER = 204,
    /**
     * A text is not UTF-8.
     */
    STRAIT_STATUS_BAD_TEXT = 205,
    /**
     * An index or length beyond the end.
     */
    STRAIT_STATUS_OUT_OF_RANGE = 206,
    /**
     * No field, counter or option of that name; the message lists what there is.
     */
    STRAIT_STATUS_NOT_FOUND = 207,
    /**
     * An error of a kind that this build of the C ABI has no number for; the message says all.
     */
    STRAIT_STATUS_OTHER = 299,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum strait_status strait_status;
#else
typedef uint32_t strait_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What becomes of each element: of the type in front, one of that behind. Values stay but for those of `u8`, which become
 * `byte * factor + bias`: the product rounded to the nearest `f32`, then the sum, then that to the nearest of the type, ties
 * to even. Later versions add kinds.
 */
enum strait_cast_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    STRAIT_CAST_KIND_U16_TO_I32 = 1,
    STRAIT_CAST_KIND_U16_TO_I64 = 2,
    STRAIT_CAST_KIND_U32_TO_I64 = 3,
    STRAIT_CAST_KIND_I32_TO_I64 = 4,
    STRAIT_CAST_KIND_U8_TO_F32 = 5,
    STRAIT_CAST_KIND_U8_TO_F16 = 6,
    STRAIT_CAST_KIND_U8_TO_BF16 = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum strait_cast_kind strait_cast_kind;
#else
typedef uint32_t strait_cast_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A batch of samples on a device. Threads: any, at once; `strait_batch_release_on` and `strait_batch_free` end it.
 */
typedef struct strait_batch strait_batch;

/**
 * One or more safetensors files whose tensors have distinct names. Threads: any, at once.
 */
typedef struct strait_checkpoint strait_checkpoint;

/**
 * Where a run stands, and what it is a run of. Threads: any, at once.
 */
typedef struct strait_cursor strait_cursor;

/**
 * Shards, fields and the place of every sample. It does not change. Threads: any, at once.
 */
typedef struct strait_dataset strait_dataset;

/**
 * How a dataset is opened. Threads: any; calls with one builder take turns.
 */
typedef struct strait_dataset_builder strait_dataset_builder;

/**
 * A device that batches can live on. Threads: any, at once.
 */
typedef struct strait_device strait_device;

/**
 * What went wrong, where, and what to do. Threads: any.
 */
typedef struct strait_error strait_error;

/**
 * A load under way. Threads: any; calls with one load take turns.
 */
typedef struct strait_load strait_load;

/**
 * The options of a load. Threads: any; calls with one builder take turns.
 */
typedef struct strait_load_builder strait_load_builder;

/**
 * Reads a dataset's samples in batches. Threads: any; calls with one loader take turns, but for `strait_loader_stats`,
 * which waits for none. One that is freed while another thread waits for a batch ends when that call does.
 */
typedef struct strait_loader strait_loader;

/**
 * The options of a loader. Threads: any; calls with one builder take turns.
 */
typedef struct strait_loader_builder strait_loader_builder;

/**
 * Options and tensors of a checkpoint that is to be written. Threads: any; calls with one save take turns.
 */
typedef struct strait_save strait_save;

/**
 * What was saved. Threads: any, at once.
 */
typedef struct strait_saved strait_saved;

/**
 * A snapshot of a loader's numbers. Threads: any, at once.
 */
typedef struct strait_stats strait_stats;

/**
 * A tensor in device memory. Threads: any, at once; `strait_tensor_release_on` and `strait_tensor_free` end it.
 */
typedef struct strait_tensor strait_tensor;

/**
 * Is told something: `level` is one of `STRAIT_LOG_`.., `source` the part of strait that says it, `message` a line of UTF-8.
 * Both texts last for the call.
 */
typedef void (*strait_log)(void *context, uint32_t level, const char *source, const char *message);

/**
 * A run of bytes that `gather` moves: offsets from the start of one piece of device memory. Runs do not overlap.
 */
typedef struct {
    /**
     * Where they are.
     */
    uint64_t source;
    /**
     * Where they go.
     */
    uint64_t target;
    /**
     * How many; not 0.
     */
    uint64_t bytes;
} strait_move;

/**
 * What `cast` does.
 */
typedef struct {
    /**
     * What becomes of what.
     */
    strait_cast_kind kind;
    /**
     * Of those that begin with `u8`.
     */
    float factor;
    /**
     * The same.
     */
    float bias;
} strait_cast;

/**
 * The functions of a device. Zero it, set `size` to `sizeof(strait_device_vtable)`, and fill in the rest. All are required
 * but `destroy`, `gather`, `error_name` and `cast`. Later versions add entries at the end, which a smaller `size` leaves out.
 */
typedef struct {
    /**
     * `sizeof(strait_device_vtable)`.
     */
    size_t size;
    /**
     * What DLPack calls such a device: its `DLDeviceType` (12, `kDLExtDev`, if it has none).
     */
    int32_t dlpack_type;
    /**
     * What DLPack calls this one: its `device_id`.
     */
    int32_t dlpack_id;
    /**
     * A name for people; copied.
     */
    const char *name;
    /**
     * The last user of the device is gone: no other function is called any more. May be NULL.
     */
    void (*destroy)(void *device);
    /**
     * Allocates `bytes` of device memory, at a multiple of 4096.
     */
    int32_t (*allocate)(void *device, size_t bytes, uint64_t *base);
    /**
     * Gives it back. Nothing uses it any more.
     */
    void (*free)(void *device, uint64_t base, size_t bytes);
    /**
     * Pins host memory, so that streams copy from and to it asynchronously.
     */
    int32_t (*pin)(void *device, void *base, size_t bytes);
    /**
     * Takes that back. No copy from or to it is in flight. If it fails, the memory stays mapped for ever.
     */
    int32_t (*unpin)(void *device, void *base);
    /**
     * Makes a copy queue.
     */
    int32_t (*stream_create)(void *device, void **stream);
    /**
     * Gives it back. Copies that are on it still happen.
     */
    void (*stream_destroy)(void *device, void *stream);
    /**
     * Starts a copy of `bytes` from pinned host memory to device memory.
     */
    int32_t (*copy)(void *device, void *stream, const void *source, uint64_t target, size_t bytes);
    /**
     * Starts a copy of `bytes` from device memory to pinned host memory.
     */
    int32_t (*copy_out)(void *device, void *stream, uint64_t source, void *target, size_t bytes);
    /**
     * Puts a mark behind all that is on the stream, also behind what failed to start.
     */
    int32_t (*mark)(void *device, void *stream, uint64_t *mark);
    /**
     * The latest mark that is reached; 0 if none is.
     */
    int32_t (*reached)(void *device, void *stream, uint64_t *mark);
    /**
     * Waits until `mark` is reached, or `timeout_ns` nanoseconds (`UINT64_MAX`: for ever) have passed, and says which. A
     * mark that was never given out is not reached.
     */
    int32_t (*wait)(void *device, void *stream, uint64_t mark, uint64_t timeout_ns, bool *reached);
    /**
     * Makes a consumer's stream wait for `mark`, on the device.
     */
    int32_t (*wait_on)(void *device, void *stream, uint64_t mark, void *consumer);
    /**
     * Makes a fence: a place on a consumer's stream. Not recorded yet, it holds nothing up.
     */
    int32_t (*fence_create)(void *device, uint64_t *fence);
    /**
     * Gives it back. Waits for it that are under way still hold.
     */
    void (*fence_destroy)(void *device, uint64_t fence);
    /**
     * Records it behind all that is on a consumer's stream now, in place of where it was recorded before.
     */
    int32_t (*record)(void *device, uint64_t fence, void *consumer);
    /**
     * Orders what the stream is given later behind the fence as last recorded.
     */
    int32_t (*wait_fence)(void *device, void *stream, uint64_t fence);
    /**
     * Copies device memory to the host and waits for it. Nothing writes to it meanwhile.
     */
    int32_t (*read_back)(void *device, uint64_t source, void *target, size_t bytes);
    /**
     * Starts `count` moves within the device memory at `base`. The table is read before the call returns. NULL: dense
     * tensors that need it are an error.
     */
    int32_t (*gather)(void *device,
                      void *stream,
                      uint64_t base,
                      const strait_move *moves,
                      size_t count);
    /**
     * The driver's name for a code. May be NULL, and may return NULL.
     */
    const char *(*error_name)(void *device, int32_t code);
    /**
     * Starts moves as `gather` does, of whole elements that change on the way; `bytes` is what they take at the source. Sources
     * begin anywhere, targets at multiples of their elements' size. A kind that it does not know is an error, not done in part.
     * NULL: arrays whose elements are to change (`strait_loader_builder_widen`, `_scale`) are an error of building.
     */
    int32_t (*cast)(void *device,
                    void *stream,
                    uint64_t base,
                    const strait_cast *cast,
                    const strait_move *moves,
                    size_t count);
} strait_device_vtable;

/**
 * Whether a tensor is wanted: `tensor` is its number in the checkpoint.
 */
typedef bool (*strait_filter)(void *context, size_t tensor);

/**
 * Takes memory back that strait was lent.
 */
typedef void (*strait_release)(void *owner);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ---------- Errors ----------------------------------------------------------------------------
 *
 * The last parameter of every function that can fail is a `strait_error **`. It may be NULL. On failure it is set to an
 * error that the caller owns and gives back with `strait_error_free`; otherwise it is left alone, so start it as NULL.
 * An error does not change: any number of threads may read it. What its functions return lives as long as it does.
 * They take NULL and freed errors too, and then return the empty text, NULL, 0 or false.
 */

/**
 * Gives an error back. NULL is fine; an error that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_error_free(strait_error *error);

/**
 * The status that came with it.
 */
strait_status strait_error_status(const strait_error *error);

/**
 * What went wrong, where, and what to do: a sentence in English, without a newline.
 */
const char *strait_error_message(const strait_error *error);

/**
 * The operating system's error number (`errno.h`), or 0.
 */
int32_t strait_error_errno(const strait_error *error);

/**
 * The device driver's result code (on CUDA a `CUresult`), or 0.
 */
int32_t strait_error_device_code(const strait_error *error);

/**
 * The shard or other file that it is about, as the bytes of its path; NULL if there is none.
 */
const char *strait_error_path(const strait_error *error);

/**
 * The byte of that file, from its start: true, and `offset` is written; false if none is known, or `offset` is NULL.
 */
bool strait_error_offset(const strait_error *error,
                         uint64_t *offset);

/**
 * The id of the sample that cannot be read: true, and `sample` is written; false if it is about none, or `sample` is NULL.
 */
bool strait_error_sample(const strait_error *error,
                         uint64_t *sample);

/* ---------- Log -------------------------------------------------------------------------------
 *
 * What strait has to say that is no error of a call: what it does in place of what was wanted, with the reason and what
 * would change it (a warning, each once), samples that are left out, memory that is leaked rather than used wrongly. Nothing
 * is said until a function is named to say it to.
 */

/**
 * Has `log` called with `context` for everything that is said at `level` and graver levels in this process from now on,
 * whoever's loader it is about, in place of the function before. `log` may be NULL: then nothing is said any more.
 *
 * It is called in the thread in which something happened: one that calls strait, or an engine's, which waits for it; in
 * several at once. It must not throw, and should neither block nor call strait: what is said while it does is lost.
 *
 * This returns once no call of the function before is under way: what that needs may go then. From `log` itself it is
 * `STRAIT_STATUS_WRONG_ORDER`. The child of a fork goes on with its parent's function.
 */
strait_status strait_log_to(uint32_t level,
                            strait_log log,
                            void *context,
                            strait_error **error);

/* ---------- Version ---------------------------------------------------------------------------
 *
 * From 1.0 on functions are only added. Before, a minor version may change them; the library's file name says which.
 */

/**
 * The version of the library: `"0.1.0"`. It lives for ever. Threads: any.
 */
const char *strait_version(void);

/**
 * How many handles of all kinds are live in this process, to see in tests that all were given back. Threads: any.
 */
size_t strait_handles_live(void);

/* ---------- Devices ---------------------------------------------------------------------------
 *
 * Where batches live: host memory, a CUDA device, or a vendor's own (see the device plug-in). A device does not change.
 * Loaders keep what they need of it, so a device may be given back at once.
 */

/**
 * Host memory: the storage writes into batches directly, and nothing is copied.
 */
strait_status strait_device_host(strait_device **device, strait_error **error);

/**
 * The CUDA device `ordinal`, counted among the visible ones, with its primary context, as PyTorch and the CUDA runtime
 * use it. Without a driver or a device: `STRAIT_STATUS_NO_DEVICE`, which says what is missing.
 */
strait_status strait_device_cuda(uint32_t ordinal,
                                 strait_device **device,
                                 strait_error **error);

/**
 * CUDA device 0 if it works, else the host.
 */
strait_status strait_device_auto(strait_device **device, strait_error **error);

/**
 * Gives a device back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_device_free(strait_device *device);

/**
 * A name for people: `"cuda:0 (NVIDIA H200)"`. It lives as long as the device's handle.
 */
strait_status strait_device_name(const strait_device *device,
                                 const char **name,
                                 strait_error **error);

/**
 * What DLPack calls this device: `DLDeviceType` (1 the host, 2 CUDA, 3 host memory that CUDA has pinned) and `device_id`.
 */
strait_status strait_device_dlpack(const strait_device *device,
                                   int32_t *device_type,
                                   int32_t *device_id,
                                   strait_error **error);

/**
 * Host memory that `accelerator` has pinned, so that its streams copy from batches directly: `kDLCUDAHost` for a CUDA
 * device. The host addresses it too. Giving a batch back behind a stream (`strait_batch_release_on`, or a tensor's
 * deleter) waits on the host, since the storage writes into such memory without a stream in between.
 */
strait_status strait_device_pinned_host(const strait_device *accelerator,
                                        strait_device **device,
                                        strait_error **error);

/* ---------- Device plug-in --------------------------------------------------------------------
 *
 * A table of functions with which a vendor adds a device to strait without touching it. The device then takes the staged
 * path: the storage writes into host memory that the device has pinned, and copies of the device bring it to the batch.
 *
 * What a device promises:
 * - Memory from `allocate` stays valid until `free`. Pinned memory may be copied from and to asynchronously until `unpin`.
 * - Copies, gathers and casts of one stream take effect in order. A mark is a number, greater than 0 and than those that the
 * stream has given before; it is reached once everything that the stream was given before has finished reading its source
 * and its bytes are visible to work ordered after it, and to the host if they went there.
 * - An error is never taken for completion, by neither side: after one, the work may have started all the same.
 * - `copy`, `copy_out`, `gather`, `cast`, `mark`, `reached`, `wait_fence` of one stream are called by one thread at a time, `wait` and
 * `wait_on` by any thread at any time, everything else by any thread at any time. Only `wait` and `read_back` may block.
 *
 * Every function takes the `device` that `strait_device_custom` was given. One that can fail returns 0, or the driver's
 * own code, which `strait_error_device_code` then gives; outputs are looked at only if it returns 0.
 */

/**
 * Adds a device. The table is copied; `device` is passed to its functions, and belongs to strait until it calls `destroy`. If
 * this fails, `device` is still the caller's, and `destroy` is not called.
 */
strait_status strait_device_custom(const strait_device_vtable *vtable,
                                   void *device,
                                   strait_device **custom,
                                   strait_error **error);

/* ---------- Datasets --------------------------------------------------------------------------
 *
 * What exists on disk: shards, samples, fields. A builder takes paths and options; the dataset it builds does not change
 * and holds no file open. Texts and arrays that a dataset gives out live as long as its handle.
 */

/**
 * Makes a builder without paths, to be given back with `strait_dataset_builder_free`.
 */
strait_status strait_dataset_builder_new(strait_dataset_builder **builder, strait_error **error);

/**
 * Gives a builder back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_dataset_builder_free(strait_dataset_builder *builder);

/**
 * Adds a shard, or a directory: it stands for the regular files in it, sorted by name, without those below it and those
 * that begin with a dot. Nothing is looked at before `strait_dataset_builder_build`. The path is copied; it is bytes, and
 * need not be UTF-8.
 */
strait_status strait_dataset_builder_add_path(strait_dataset_builder *builder,
                                              const char *path,
                                              strait_error **error);

/**
 * The size in bytes of the records of raw files, which do not say it themselves.
 */
strait_status strait_dataset_builder_record_bytes(strait_dataset_builder *builder,
                                                  uint64_t record_bytes,
                                                  strait_error **error);

/**
 * Reads the files as this format, whatever they look like: `"records"`, `"webdataset"` and others;
 * `STRAIT_STATUS_NOT_FOUND` lists them.
 */
strait_status strait_dataset_builder_format(strait_dataset_builder *builder,
                                            const char *format,
                                            strait_error **error);

/**
 * The type of the elements, in files that do not say it (headerless tokens): `"u16"`, `"i32"`, `"bf16"` ..
 */
strait_status strait_dataset_builder_dtype(strait_dataset_builder *builder,
                                           const char *dtype,
                                           strait_error **error);

/**
 * The directory that sidecar indexes are in, if they are not beside their shards.
 */
strait_status strait_dataset_builder_index_dir(strait_dataset_builder *builder,
                                               const char *index_dir,
                                               strait_error **error);

/**
 * Whether the records of a TFRecord file are `tf.train.Example`s, whose features become fields. Default: what the first
 * record is.
 */
strait_status strait_dataset_builder_examples(strait_dataset_builder *builder,
                                              bool examples,
                                              strait_error **error);

/**
 * Reads the shards whole as they are indexed, and compares the checksums that their format has (TFRecord). Default: no.
 */
strait_status strait_dataset_builder_verify(strait_dataset_builder *builder,
                                            bool verify,
                                            strait_error **error);

/**
 * Opens the dataset: reads headers and indexes, never payload. Takes as long as the storage does. The builder stays as it
 * is and may build again. The dataset is given back with `strait_dataset_free`.
 */
strait_status strait_dataset_builder_build(const strait_dataset_builder *builder,
                                           strait_dataset **dataset,
                                           strait_error **error);

/**
 * Joins `count` datasets to one, whose sample ids count through them in the order given: what
 * `strait_loader_builder_mixture` mixes. Fields are united by name. The datasets stay as they are, and stay the caller's.
 */
strait_status strait_dataset_concat(const strait_dataset *const *datasets,
                                    size_t count,
                                    strait_dataset **dataset,
                                    strait_error **error);

/**
 * Gives a dataset back. Loaders built from it keep what they need. NULL is fine; one that is not live is
 * `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_dataset_free(strait_dataset *dataset);

/**
 * The number of samples. Their ids are 0 to that number less 1, shard by shard in the order given.
 */
strait_status strait_dataset_len(const strait_dataset *dataset,
                                 uint64_t *len,
                                 strait_error **error);

/**
 * How many samples the dataset number `part` of those that were joined has, by which `strait_batch_origin` counts; of one
 * that was not, its own. `STRAIT_STATUS_OUT_OF_RANGE` behind the last.
 */
strait_status strait_dataset_part(const strait_dataset *dataset,
                                  size_t part,
                                  uint64_t *samples,
                                  strait_error **error);

/**
 * The bytes of the largest sample, all fields together: what a batch may need per sample. Takes a pass over the index,
 * unless sidecars say it.
 */
strait_status strait_dataset_largest_sample(const strait_dataset *dataset,
                                            uint64_t *bytes,
                                            strait_error **error);

/**
 * Which shards' indexes came from sidecars (`strait index`): of how many a sidecar is used, how many of these have
 * checksums, and how many sidecars are stale or damaged, with the reason of the first of them (NULL if there is none). Each
 * output may be NULL.
 */
strait_status strait_dataset_sidecars(const strait_dataset *dataset,
                                      uint64_t *used,
                                      uint64_t *checksums,
                                      uint64_t *unusable,
                                      const char **why,
                                      strait_error **error);

/**
 * The format's name: `"records"`, `"webdataset"`; `"mixed"` where datasets of different formats are joined.
 */
strait_status strait_dataset_format(const strait_dataset *dataset,
                                    const char **format,
                                    strait_error **error);

/**
 * The number of shards.
 */
strait_status strait_dataset_shards(const strait_dataset *dataset,
                                    size_t *shards,
                                    strait_error **error);

/**
 * A shard's path, its size in bytes, and how many samples it holds. Each output may be NULL.
 */
strait_status strait_dataset_shard(const strait_dataset *dataset,
                                   size_t shard,
                                   const char **path,
                                   uint64_t *bytes,
                                   uint64_t *samples,
                                   strait_error **error);

/**
 * The number of fields that samples may have.
 */
strait_status strait_dataset_fields(const strait_dataset *dataset,
                                    size_t *fields,
                                    strait_error **error);

/**
 * A field's name (`"jpg"`), the type of its elements (`"u16"`, `"bf16"`; NULL where the format does not say it), and the
 * size in bytes that every sample's has (`STRAIT_UNKNOWN` where they differ). Each output may be NULL.
 */
strait_status strait_dataset_field(const strait_dataset *dataset,
                                   size_t field,
                                   const char **name,
                                   const char **dtype,
                                   uint64_t *fixed_bytes,
                                   strait_error **error);

/**
 * How a field's bytes are to be read, where the format says so: `text`: UTF-8; `varints`: whole numbers as a
 * `tf.train.Example` has them, one behind another, each 7 bits a byte, the lowest first, with the top bit set in all but its
 * last byte, and negative ones as 64 bits. Each output may be NULL.
 */
strait_status strait_dataset_field_encoding(const strait_dataset *dataset,
                                            size_t field,
                                            bool *text,
                                            bool *varints,
                                            strait_error **error);

/**
 * The shape of a field where every sample's is the same and the format says so, the first dimension outermost: `ndim`
 * lengths at `shape`. `STRAIT_STATUS_ABSENT` where there is none.
 */
strait_status strait_dataset_field_shape(const strait_dataset *dataset,
                                         size_t field,
                                         const uint64_t **shape,
                                         size_t *ndim,
                                         strait_error **error);

/**
 * Where field number `field` of a sample lies: the number of the shard, and first byte and length in it.
 * `STRAIT_STATUS_ABSENT` if the sample lacks that field, `STRAIT_STATUS_FORMAT` if the shard's index turns out to be damaged.
 */
strait_status strait_dataset_extent(const strait_dataset *dataset,
                                    uint64_t sample,
                                    size_t field,
                                    size_t *shard,
                                    uint64_t *offset,
                                    uint64_t *len,
                                    strait_error **error);

/* ---------- Loader options --------------------------------------------------------------------
 *
 * A builder takes options one by one; each has a default. An option that cannot be met is an error of
 * `strait_loader_builder_build`, but for texts that no option has, which are refused at once (`STRAIT_STATUS_CONFIG`).
 */

/**
 * Starts the options of a loader of this dataset, which may be given back at once. Give the builder back with
 * `strait_loader_builder_free`.
 */
strait_status strait_loader_builder_new(const strait_dataset *dataset,
                                        strait_loader_builder **builder,
                                        strait_error **error);

/**
 * Gives a builder back, after building too. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_loader_builder_free(strait_loader_builder *builder);

/**
 * Allocates all memory, starts the engine's thread, and returns once it is ready to read. A builder builds once, whether
 * that succeeds or not; free it afterwards. Give the loader back with `strait_loader_free`.
 */
strait_status strait_loader_builder_build(strait_loader_builder *builder,
                                          strait_loader **loader,
                                          strait_error **error);

/**
 * Where batches live. Default: the first CUDA device if it works, else host memory. The device may be given back at once.
 */
strait_status strait_loader_builder_device(strait_loader_builder *builder,
                                           const strait_device *device,
                                           strait_error **error);

/**
 * Samples per batch, or windows. Default 256.
 */
strait_status strait_loader_builder_batch_size(strait_loader_builder *builder,
                                               size_t batch_size,
                                               strait_error **error);

/**
 * What decides the random order. Default 0.
 */
strait_status strait_loader_builder_seed(strait_loader_builder *builder,
                                         uint64_t seed,
                                         strait_error **error);

/**
 * Batches read ahead. Default: as many as keep the storage busy.
 */
strait_status strait_loader_builder_prefetch(strait_loader_builder *builder,
                                             size_t prefetch,
                                             strait_error **error);

/**
 * Batches that may be held at once while others are read. Default 2.
 */
strait_status strait_loader_builder_hold(strait_loader_builder *builder,
                                         size_t hold,
                                         strait_error **error);

/**
 * The longest read, and the size of a slab, in bytes: a multiple of 4096. Default 4 MiB.
 */
strait_status strait_loader_builder_block_bytes(strait_loader_builder *builder,
                                                uint64_t block_bytes,
                                                strait_error **error);

/**
 * Parts of a batch that are nearer to each other than this, in bytes, are read as one. Default 16 KiB; at most the
 * longest read, or 1 MiB if that is more.
 */
strait_status strait_loader_builder_gap_bytes(strait_loader_builder *builder,
                                              uint64_t gap_bytes,
                                              strait_error **error);

/**
 * Alignment of direct reads in bytes: a power of two, at least 4096. Default 4096.
 */
strait_status strait_loader_builder_align_bytes(strait_loader_builder *builder,
                                                uint64_t align_bytes,
                                                strait_error **error);

/**
 * Reads in flight at most. Default 128.
 */
strait_status strait_loader_builder_reads_in_flight(strait_loader_builder *builder,
                                                    size_t reads_in_flight,
                                                    strait_error **error);

/**
 * Bytes in flight at most. Default 32 MiB.
 */
strait_status strait_loader_builder_bytes_in_flight(strait_loader_builder *builder,
                                                    uint64_t bytes_in_flight,
                                                    strait_error **error);

/**
 * Pinned or registered host memory at most, in bytes. Default 256 MiB.
 */
strait_status strait_loader_builder_pinned_bytes_max(strait_loader_builder *builder,
                                                     uint64_t pinned_bytes_max,
                                                     strait_error **error);

/**
 * Memory for batches on a device other than the host at most, in bytes. Default 1 GiB.
 */
strait_status strait_loader_builder_region_bytes_max(strait_loader_builder *builder,
                                                     uint64_t region_bytes_max,
                                                     strait_error **error);

/**
 * Memory for batches, in bytes. Default: room for the batches read ahead and held.
 */
strait_status strait_loader_builder_region_bytes(strait_loader_builder *builder,
                                                 uint64_t region_bytes,
                                                 strait_error **error);

/**
 * Files open at most. Default 256.
 */
strait_status strait_loader_builder_open_files_max(strait_loader_builder *builder,
                                                   size_t open_files_max,
                                                   strait_error **error);

/**
 * Whatever takes longer than this many milliseconds is an error that names it. Default 30,000. While the loader reads,
 * streams that batches were released on have sixty times as long: collectives on them wait for other ranks. Once it is
 * freed they have this long, then the memory is leaked.
 */
strait_status strait_loader_builder_deadline_ms(strait_loader_builder *builder,
                                                uint64_t deadline_ms,
                                                strait_error **error);

/**
 * The order of samples, anew in every epoch: `"sequential"` (default), `"full"`, or `"block:64x16"` (blocks of 64 neighbours,
 * mixed inside windows of 16 blocks).
 */
strait_status strait_loader_builder_shuffle(strait_loader_builder *builder,
                                            const char *shuffle,
                                            strait_error **error);

/**
 * What happens behind the last whole global batch: `"drop"` (default of several ranks), `"pad"`, `"wrap"`, `"short"` (default of a
 * single one).
 */
strait_status strait_loader_builder_policy(strait_loader_builder *builder,
                                           const char *policy,
                                           strait_error **error);

/**
 * The storage backend: `"auto"` (default: decided by a probe), `"uring"`, `"pread"`, `"cufile"`.
 */
strait_status strait_loader_builder_ring(strait_loader_builder *builder,
                                         const char *ring,
                                         strait_error **error);

/**
 * Which way bytes take: `"auto"` (default: direct where possible), `"staged"` (through slabs and a copy stream).
 */
strait_status strait_loader_builder_path(strait_loader_builder *builder,
                                         const char *path,
                                         strait_error **error);

/**
 * Which slice of every global batch is this process's: rank `rank` of `world`. Default: 0 of 1.
 */
strait_status strait_loader_builder_rank(strait_loader_builder *builder,
                                         uint32_t rank,
                                         uint32_t world,
                                         strait_error **error);

/**
 * Takes the rank from the launcher's environment variables: torchrun, Slurm, Open MPI, PMI. The local rank then chooses the
 * device, unless one is given. Launchers that contradict each other are an error of building.
 */
strait_status strait_loader_builder_rank_from_env(strait_loader_builder *builder,
                                                  strait_error **error);

/**
 * A sample that cannot be read is an error. The default.
 */
strait_status strait_loader_builder_bad_samples_raise(strait_loader_builder *builder,
                                                      strait_error **error);

/**
 * Samples that cannot be read are left out, and their batches shorter: at most `budget` in the whole run, and at most
 * `consecutive` one after another.
 */
strait_status strait_loader_builder_bad_samples_skip(strait_loader_builder *builder,
                                                     uint32_t budget,
                                                     uint32_t consecutive,
                                                     strait_error **error);

/**
 * Other samples stand in for those that cannot be read.
 */
strait_status strait_loader_builder_bad_samples_replace(strait_loader_builder *builder,
                                                        strait_error **error);

/**
 * Mixes the `count` datasets that `strait_dataset_concat` joined by weight, without drift. The epoch ends where a dataset
 * would have to start over, if `repeat_positions` is 0; else that dataset starts over, and an epoch has so many positions.
 */
strait_status strait_loader_builder_mixture(strait_loader_builder *builder,
                                            const uint32_t *weights,
                                            size_t count,
                                            uint64_t repeat_positions,
                                            strait_error **error);

/**
 * Whether samples are compared with their checksums as they are read: `"off"` (default), or `"checksums"`, those that their
 * shard's index has (`strait index --checksums`).
 */
strait_status strait_loader_builder_verify(strait_loader_builder *builder,
                                           const char *verify,
                                           strait_error **error);

/**
 * Shuffles blocks of neighbours of about `block_bytes` bytes, mixed inside windows of `window` blocks: tiny samples are
 * read in large pieces.
 */
strait_status strait_loader_builder_shuffle_blocks(strait_loader_builder *builder,
                                                   uint64_t block_bytes,
                                                   uint64_t window,
                                                   strait_error **error);

/**
 * Reads only these `count` fields of each sample. Default: all.
 */
strait_status strait_loader_builder_fields(strait_loader_builder *builder,
                                           const char *const *names,
                                           size_t count,
                                           strait_error **error);

/**
 * The `count` fields that come out as one array a batch too (`strait_batch_field_tensor`). Default: all whose type and shape
 * are known, and the tokens of windows; none if `count` is 0.
 */
strait_status strait_loader_builder_tensors(strait_loader_builder *builder,
                                            const char *const *names,
                                            size_t count,
                                            strait_error **error);

/**
 * The `count` small fields whose bytes are on the host too, whatever device batches live on. Default: those of a fixed size
 * of at most 8 bytes, and those called `cls`, `json`, `txt` and the like.
 */
strait_status strait_loader_builder_on_host(strait_loader_builder *builder,
                                            const char *const *names,
                                            size_t count,
                                            strait_error **error);

/**
 * Says what the elements of `field` are, where the format does not: `"u16"`, `"bf16"` .., in samples of the shape of `ndim`
 * lengths at `shape`, the first dimension outermost. The field then comes out as one array a batch.
 */
strait_status strait_loader_builder_array(strait_loader_builder *builder,
                                          const char *field,
                                          const char *dtype,
                                          const uint64_t *shape,
                                          size_t ndim,
                                          strait_error **error);

/**
 * Makes the elements of `field`'s array wider, which keeps every value: `"i32"` and `"i64"` of `u16`, `"i64"` of `i32` and `u32`,
 * `"f16"`, `"bf16"` and `"f32"` of `u8`. Single samples stay as they are stored. Where the device cannot, building says why.
 */
strait_status strait_loader_builder_widen(strait_loader_builder *builder,
                                          const char *field,
                                          const char *dtype,
                                          strait_error **error);

/**
 * Makes `byte * factor + bias` of every `u8` of `field`'s array, as `"f16"`, `"bf16"` or `"f32"`: pictures from 0 to 1 are those
 * with a factor of `1.0f / 255.0f`. Product, sum and result are rounded to the nearest each, ties to even. Single samples stay
 * as they are stored.
 */
strait_status strait_loader_builder_scale(strait_loader_builder *builder,
                                          const char *field,
                                          const char *dtype,
                                          float factor,
                                          float bias,
                                          strait_error **error);

/**
 * Measures samples in tokens: items of `item_bytes` bytes in `field`.
 */
strait_status strait_loader_builder_tokens(strait_loader_builder *builder,
                                           const char *field,
                                           uint64_t item_bytes,
                                           strait_error **error);

/**
 * Makes batches of windows of `window_tokens` tokens, each starting `stride_tokens` after the one before, over the
 * documents as they are stored. See `strait_batch_window`; needs `strait_loader_builder_tokens`.
 */
strait_status strait_loader_builder_windows(strait_loader_builder *builder,
                                            uint64_t window_tokens,
                                            uint64_t stride_tokens,
                                            strait_error **error);

/**
 * Makes batches of windows of `window_tokens` tokens over the documents in shuffled order, one after another, none padded.
 */
strait_status strait_loader_builder_pack(strait_loader_builder *builder,
                                         uint64_t window_tokens,
                                         strait_error **error);

/**
 * Cuts batches by length: at most `samples_max` samples, and at most `cost_max` bytes (or tokens, if those are set): the sum
 * of the lengths, or, if `padded`, the longest times the samples. `window` samples are sorted by length together, and `run`
 * neighbours by length stay together; 1 and 1 for the order as it is.
 */
strait_status strait_loader_builder_budget(strait_loader_builder *builder,
                                           uint64_t samples_max,
                                           uint64_t cost_max,
                                           bool padded,
                                           uint64_t window,
                                           uint64_t run,
                                           strait_error **error);

/* ---------- Loaders ---------------------------------------------------------------------------
 *
 * A loader reads batches ahead on a thread of its own. Begin an epoch, take its batches with `strait_loader_next` until it
 * says `STRAIT_STATUS_END`, and give each batch back. What a loader waits for has a deadline, so nothing hangs.
 */

/**
 * Stops the loader in bounded time. Batches and tensors that are still held stay valid. NULL is fine; one that is not live
 * is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_loader_free(strait_loader *loader);

/**
 * The number of batches in an epoch, the same on every rank; `STRAIT_UNKNOWN` where batches are cut by a budget.
 */
strait_status strait_loader_steps(const strait_loader *loader,
                                  uint64_t *steps,
                                  strait_error **error);

/**
 * Begins epoch `epoch`: all of its batches, in order. An epoch under way is given up. The last epoch that there is has the
 * number `UINT64_MAX - 1`.
 */
strait_status strait_loader_begin(strait_loader *loader,
                                  uint64_t epoch,
                                  strait_error **error);

/**
 * Begins where the run stands: behind the last batch that was taken, or behind the cursor that was resumed; where an epoch
 * has ended, all of the next.
 */
strait_status strait_loader_begin_rest(strait_loader *loader,
                                       strait_error **error);

/**
 * The next batch of the epoch that was begun, to be given back with `strait_batch_free` or `strait_batch_release_on`.
 *
 * `STRAIT_STATUS_END` at the end of the epoch. `STRAIT_STATUS_PENDING` if no batch comes within `timeout_ms`
 * milliseconds: it may be asked for again, after signals were looked at. A negative time is without end; a batch that does
 * not come within the loader's deadline is an error all the same. After an error the epoch is over, and another may be
 * begun.
 */
strait_status strait_loader_next(strait_loader *loader,
                                 int64_t timeout_ms,
                                 strait_batch **batch,
                                 strait_error **error);

/**
 * Where the run stands: after the last batch that was taken, at the end of an epoch at the start of the next. See
 * `strait_batch_cursor` for the one to save in a loop. Give it back with `strait_cursor_free`.
 */
strait_status strait_loader_cursor(const strait_loader *loader,
                                   strait_cursor **cursor,
                                   strait_error **error);

/**
 * Goes on where `cursor` was taken, in whatever world and with whatever batch size: begin the rest of the epoch after it.
 * Nothing is replayed; an epoch under way is given up. The cursor stays the caller's.
 *
 * `STRAIT_STATUS_CONFIG` names what differs between this run and the cursor's. A dataset that has changed is such a
 * difference, unless `allow_changed`; which samples were seen is then no longer known.
 */
strait_status strait_loader_resume(strait_loader *loader,
                                   const strait_cursor *cursor,
                                   bool allow_changed,
                                   strait_error **error);

/**
 * The device that its batches live on, which was given or chosen; to be given back with `strait_device_free`.
 */
strait_status strait_loader_device(const strait_loader *loader,
                                   strait_device **device,
                                   strait_error **error);

/**
 * A snapshot of what the loader has done so far, to be given back with `strait_stats_free`. May be called while another
 * thread waits for a batch.
 */
strait_status strait_loader_stats(const strait_loader *loader,
                                  strait_stats **stats,
                                  strait_error **error);

/* ---------- Batches ---------------------------------------------------------------------------
 *
 * Samples that lie in device memory, one field after another as they lie in the files: pointer, offsets, lengths. The
 * bytes are there once `strait_batch_wait` says so, or, without blocking the host, on a stream that `strait_batch_wait_on`
 * has made wait; in host memory they are there at once. A loader hands out as many batches at a time as its `hold` says, so
 * give them back. A batch outlives its loader. Arrays that a batch gives out live as long as its handle.
 */

/**
 * The number of samples. It is 0 only where each of them was skipped.
 */
strait_status strait_batch_len(const strait_batch *batch, size_t *len, strait_error **error);

/**
 * The epoch that the batch belongs to.
 */
strait_status strait_batch_epoch(const strait_batch *batch, uint64_t *epoch, strait_error **error);

/**
 * The batch's place among those that `strait_loader_begin` or `strait_loader_begin_rest` delivers, from 0.
 */
strait_status strait_batch_step(const strait_batch *batch,
                                uint64_t *step,
                                strait_error **error);

/**
 * The ids of the samples, in the order in which they stand in the batch: `count` of them at `samples`. Where samples are
 * windows of tokens, the windows' numbers in the epoch.
 */
strait_status strait_batch_samples(const strait_batch *batch,
                                   const uint64_t **samples,
                                   size_t *count,
                                   strait_error **error);

/**
 * How many samples at the end are padding: repeated, to be masked.
 */
strait_status strait_batch_padded(const strait_batch *batch,
                                  uint64_t *padded,
                                  strait_error **error);

/**
 * Where the run stands once every rank has used its batch of this step: what to save then. Batches read ahead are not in
 * it. Give it back with `strait_cursor_free`. Takes a few microseconds.
 */
strait_status strait_batch_cursor(const strait_batch *batch,
                                  strait_cursor **cursor,
                                  strait_error **error);

/**
 * The dataset that a sample comes from, by its place among those that `strait_dataset_concat` joined, and its id there.
 * `STRAIT_STATUS_WRONG_ORDER` where samples are windows of tokens.
 */
strait_status strait_batch_origin(const strait_batch *batch,
                                  size_t sample,
                                  size_t *dataset,
                                  uint64_t *id,
                                  strait_error **error);

/**
 * How far a dataset of a mixture is once every rank has used its batch of this step: its own epoch, and how many of its
 * samples are consumed there. `dataset` counts as in `strait_dataset_concat`; `STRAIT_STATUS_OUT_OF_RANGE` behind the last,
 * and where there is no mixture. Each output may be NULL.
 */
strait_status strait_batch_dataset(const strait_batch *batch,
                                   size_t dataset,
                                   uint64_t *epoch,
                                   uint64_t *consumed,
                                   strait_error **error);

/**
 * The number of fields that the batch has.
 */
strait_status strait_batch_fields(const strait_batch *batch, size_t *fields, strait_error **error);

/**
 * The name of a field, and the type of its elements or NULL. Each output may be NULL.
 */
strait_status strait_batch_field_name(const strait_batch *batch,
                                      size_t field,
                                      const char **name,
                                      const char **dtype,
                                      strait_error **error);

/**
 * One field of all samples: sample `i` has `lengths[i]` bytes at `strait_batch_device_ptr` plus `offsets[i]`, or lacks the
 * field if `lengths[i]` is `STRAIT_UNKNOWN`. There are as many as samples.
 */
strait_status strait_batch_field(const strait_batch *batch,
                                 const char *field,
                                 const uint64_t **offsets,
                                 const uint64_t **lengths,
                                 strait_error **error);

/**
 * A window of tokens, where samples are such: `pieces` pieces of one document each. Piece `i` is `tokens[i+1] - tokens[i]`
 * tokens (`tokens` has one element more than pieces and starts at 0: what attention kernels call `cu_seqlens`), and its
 * `lengths[i]` bytes are at `strait_batch_device_ptr` plus `offsets[i]`. Each output may be NULL.
 * `STRAIT_STATUS_WRONG_ORDER` where samples are no windows.
 */
strait_status strait_batch_window(const strait_batch *batch,
                                  size_t window,
                                  size_t *pieces,
                                  const uint32_t **tokens,
                                  const uint64_t **offsets,
                                  const uint64_t **lengths,
                                  strait_error **error);

/**
 * Which document a piece of a window is of, and its first token there. Each output may be NULL.
 */
strait_status strait_batch_window_piece(const strait_batch *batch,
                                        size_t window,
                                        size_t piece,
                                        uint64_t *document,
                                        uint64_t *token,
                                        strait_error **error);

/**
 * First byte of the batch's memory, in the device's address space; 0 if no sample has a byte.
 */
strait_status strait_batch_device_ptr(const strait_batch *batch,
                                      uint64_t *device_ptr,
                                      strait_error **error);

/**
 * The length of that memory in bytes: all views lie inside.
 */
strait_status strait_batch_region_bytes(const strait_batch *batch,
                                        uint64_t *region_bytes,
                                        strait_error **error);

/**
 * The sum of the lengths of all views, in bytes.
 */
strait_status strait_batch_bytes(const strait_batch *batch, uint64_t *bytes, strait_error **error);

/**
 * Waits, on the host, until the bytes are there; `STRAIT_STATUS_TIMEOUT` if for the loader's deadline neither they come nor
 * anything else that it reads; where, as long as there is the loader, copies wait for a stream that an earlier batch was
 * released on, after sixty times as long.
 */
strait_status strait_batch_wait(const strait_batch *batch,
                                strait_error **error);

/**
 * Makes `stream` wait until the bytes are there, without blocking the host. `stream` is a live stream of the loader's
 * device, as a number (see Tensors).
 */
strait_status strait_batch_wait_on(const strait_batch *batch,
                                   int64_t stream,
                                   strait_error **error);

/**
 * Gives the batch back, once `stream` has done what is on it now, without blocking the host; tensors of it must have been
 * given back too, and the last one to go decides. On success, and if the driver fails, the handle is not live any more; in
 * the latter case the memory is leaked rather than filled again under its reader.
 */
strait_status strait_batch_release_on(strait_batch *batch,
                                      int64_t stream,
                                      strait_error **error);

/**
 * The bytes of one sample's field, where the host can address them: `len` bytes at `data`, as long as the batch's handle
 * lives. Those of `strait_loader_builder_on_host` are there on every device; of others it waits until they are there.
 * `STRAIT_STATUS_ABSENT` if the sample lacks the field, `STRAIT_STATUS_CONFIG` if the memory is not the host's.
 */
strait_status strait_batch_host_bytes(const strait_batch *batch,
                                      const char *field,
                                      size_t sample,
                                      const uint8_t **data,
                                      size_t *len,
                                      strait_error **error);

/**
 * The same as a whole number: of the field's own type where that is known, the one integer of a
 * `tf.train.Example`'s feature, else as decimal text, as WebDataset writes `cls`. `STRAIT_STATUS_CONFIG` where it is
 * none, or several.
 */
strait_status strait_batch_integer(const strait_batch *batch,
                                   const char *field,
                                   size_t sample,
                                   int64_t *value,
                                   strait_error **error);

/**
 * Copies one sample's field to `target`, from whatever device it is on, and waits for it: for checks and small values, not
 * for the data path. `capacity` bytes may be written there, and `len` says how many were. `STRAIT_STATUS_ABSENT` if the
 * sample lacks the field, `STRAIT_STATUS_OUT_OF_RANGE` if it is longer than `capacity`.
 */
strait_status strait_batch_read_back(const strait_batch *batch,
                                     const char *field,
                                     size_t sample,
                                     void *target,
                                     size_t capacity,
                                     size_t *len,
                                     strait_error **error);

/**
 * Gives a batch back. Its memory is filled again once the last tensor's deleter has run, behind every stream that was
 * named for a tensor; without tensors, at once: nothing may use it any more. NULL is fine; one that is not live is
 * `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_batch_free(strait_batch *batch);

/* ---------- Tensors ---------------------------------------------------------------------------
 *
 * Batches as DLPack tensors, without a copy. A tensor keeps its batch: the batch is given back when its handle is freed and
 * the last tensor's deleter has run, whichever comes last. The consumer owns a tensor and calls its deleter once, from any
 * thread; tensors outlive the loader.
 *
 * The consumer names the stream on which it will use the tensor. The tensor is ready on that stream, without blocking the
 * host, and the batch's memory is filled again only behind what is on that stream when the batch is given back; so the
 * stream must live until then. Streams are the numbers that Python's `__dlpack__` takes: a stream's handle, and on CUDA 1
 * for the legacy default stream and 2 for the calling thread's. `STRAIT_STREAM_NONE` is the only one for host memory; on
 * another device it means that the caller has waited itself (`strait_batch_wait`), and that nothing uses the tensor any
 * more when its deleter is called.
 */

/**
 * A field of all samples as one array `[samples, ...]`, of the field's type and shape; of windows of tokens, a row for each
 * window. `STRAIT_STATUS_WRONG_ORDER` if the loader makes no array of that field (see `strait_loader_builder_tensors`).
 * `flags` is `STRAIT_TENSOR_READ_ONLY` or 0.
 */
strait_status strait_batch_field_tensor(const strait_batch *batch,
                                        const char *field,
                                        int64_t stream,
                                        uint32_t flags,
                                        DLManagedTensorVersioned **tensor,
                                        strait_error **error);

/**
 * The same as a tensor of DLPack before 1.0, which cannot be read-only.
 */
strait_status strait_batch_field_tensor_legacy(const strait_batch *batch,
                                               const char *field,
                                               int64_t stream,
                                               uint32_t flags,
                                               DLManagedTensor **tensor,
                                               strait_error **error);

/**
 * One sample's field as a tensor: of the field's type and shape where the format says them, else one dimension of bytes
 * (`u8`). `STRAIT_STATUS_ABSENT` if the sample lacks the field. `STRAIT_STATUS_CONFIG` if the elements do not lie as their
 * type needs it, since samples lie in memory as they lie in the file: take bytes then. `flags` is a sum of
 * `STRAIT_TENSOR_`.. or 0.
 */
strait_status strait_batch_sample_tensor(const strait_batch *batch,
                                         const char *field,
                                         size_t sample,
                                         int64_t stream,
                                         uint32_t flags,
                                         DLManagedTensorVersioned **tensor,
                                         strait_error **error);

/**
 * The same as a tensor of DLPack before 1.0, which cannot be read-only.
 */
strait_status strait_batch_sample_tensor_legacy(const strait_batch *batch,
                                                const char *field,
                                                size_t sample,
                                                int64_t stream,
                                                uint32_t flags,
                                                DLManagedTensor **tensor,
                                                strait_error **error);

/**
 * All of a batch's memory as one dimension of bytes (`u8`): what the offsets and lengths of `strait_batch_field` and
 * `strait_batch_window` cut. `flags` is `STRAIT_TENSOR_READ_ONLY` or 0.
 */
strait_status strait_batch_region_tensor(const strait_batch *batch,
                                         int64_t stream,
                                         uint32_t flags,
                                         DLManagedTensorVersioned **tensor,
                                         strait_error **error);

/**
 * The same as a tensor of DLPack before 1.0, which cannot be read-only.
 */
strait_status strait_batch_region_tensor_legacy(const strait_batch *batch,
                                                int64_t stream,
                                                uint32_t flags,
                                                DLManagedTensor **tensor,
                                                strait_error **error);

/* ---------- Cursors ---------------------------------------------------------------------------
 *
 * The state of a run: which epoch, how many samples all ranks together were given, of which dataset, in which order. World,
 * batch size and what was read ahead are not in it, so a run goes on from one with other ranks and batches. A cursor does
 * not change.
 */

/**
 * Reads a cursor from the `len` bytes that `strait_cursor_json` gave: `STRAIT_STATUS_CONFIG` for anything else. Give it
 * back with `strait_cursor_free`.
 */
strait_status strait_cursor_parse(const char *json,
                                  size_t len,
                                  strait_cursor **cursor,
                                  strait_error **error);

/**
 * The cursor as one line of JSON, a few hundred bytes, to be saved with a checkpoint: `len` bytes and a NUL. It lives as
 * long as the cursor's handle. `len` may be NULL.
 */
strait_status strait_cursor_json(const strait_cursor *cursor,
                                 const char **json,
                                 size_t *len,
                                 strait_error **error);

/**
 * How far the run is: its epoch, how many of that epoch's positions all ranks together were given, and how many there
 * are. Each output may be NULL.
 */
strait_status strait_cursor_progress(const strait_cursor *cursor,
                                     uint64_t *epoch,
                                     uint64_t *consumed,
                                     uint64_t *positions,
                                     strait_error **error);

/**
 * One cursor that knows of all samples that either of two ranks has skipped. Both must be of the same run and step. The
 * two stay as they are; the result is given back with `strait_cursor_free`.
 */
strait_status strait_cursor_merge(const strait_cursor *cursor,
                                  const strait_cursor *other,
                                  strait_cursor **merged,
                                  strait_error **error);

/**
 * Gives a cursor back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_cursor_free(strait_cursor *cursor);

/* ---------- Stats -----------------------------------------------------------------------------
 *
 * A snapshot of what a loader did and which way its bytes took. Numbers and texts go by name, so that a new one needs no
 * new function. Texts live as long as the stats' handle.
 */

/**
 * Gives stats back. NULL is fine; those that are not live are `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_stats_free(strait_stats *stats);

/**
 * The name of number `index`, from 0, or NULL behind the last. Names live for ever.
 */
const char *strait_stats_name(size_t index);

/**
 * A number, counted since the loader was built: `"batches"`, `"samples"`, `"bytes_wanted"` (payload bytes delivered),
 * `"bytes_read"` (asked of the storage), `"reads"`, `"bytes_copied"`, `"pinned_bytes_max"` and others; `"numa_node"` that the
 * engine keeps to, or `STRAIT_UNKNOWN`. `strait_stats_name` lists all.
 */
strait_status strait_stats_number(const strait_stats *stats,
                                  const char *name,
                                  uint64_t *number,
                                  strait_error **error);

/**
 * A text: `"path"` (`"direct"` or `"staged"`), `"path_reason"`, `"ring"` (`"uring"`, `"pread"`, `"cufile"`), `"device"`, `"pages"`
 * (what the memory that the storage writes to is made of).
 */
strait_status strait_stats_text(const strait_stats *stats,
                                const char *name,
                                const char **value,
                                strait_error **error);

/**
 * How many things were wanted and could not be had (io_uring, huge pages ..). Reads work without them, at a price.
 */
strait_status strait_stats_fallbacks(const strait_stats *stats,
                                     size_t *fallbacks,
                                     strait_error **error);

/**
 * One of them: what is done instead, why, and what would change it.
 */
strait_status strait_stats_fallback(const strait_stats *stats,
                                    size_t fallback,
                                    const char **value,
                                    strait_error **error);

/**
 * The ids of the samples that cannot be read, ascending: `count` of them at `samples`.
 */
strait_status strait_stats_bad_samples(const strait_stats *stats,
                                       const uint64_t **samples,
                                       size_t *count,
                                       strait_error **error);

/* ---------- Checkpoints -----------------------------------------------------------------------
 *
 * Safetensors files, by their headers: what tensors there are, and where. A checkpoint does not change and holds no file
 * open. Texts and arrays that it gives out live as long as its handle. A name or an entry of `__metadata__` with a NUL in it,
 * which the format allows and C's texts do not, is refused: `STRAIT_STATUS_FORMAT`.
 */

/**
 * Opens a safetensors file, an index (`model.safetensors.index.json`), or a directory with one or the other. Reads headers
 * only. Give it back with `strait_checkpoint_free`.
 */
strait_status strait_checkpoint_open(const char *path,
                                     strait_checkpoint **checkpoint,
                                     strait_error **error);

/**
 * Opens `count` files as one checkpoint, without an index.
 */
strait_status strait_checkpoint_open_files(const char *const *paths,
                                           size_t count,
                                           strait_checkpoint **checkpoint,
                                           strait_error **error);

/**
 * Gives a checkpoint back. Loads of it keep what they need. NULL is fine; one that is not live is
 * `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_checkpoint_free(strait_checkpoint *checkpoint);

/**
 * The number of tensors, and of the bytes of all of them. Each output may be NULL.
 */
strait_status strait_checkpoint_tensors(const strait_checkpoint *checkpoint,
                                        size_t *tensors,
                                        uint64_t *bytes,
                                        strait_error **error);

/**
 * The number of the tensor of that name; `STRAIT_STATUS_NOT_FOUND` if there is none.
 */
strait_status strait_checkpoint_find(const strait_checkpoint *checkpoint,
                                     const char *name,
                                     size_t *tensor,
                                     strait_error **error);

/**
 * A tensor by its number: name, type of its elements (`"bf16"`), bytes. Each output may be NULL.
 */
strait_status strait_checkpoint_tensor(const strait_checkpoint *checkpoint,
                                       size_t tensor,
                                       const char **name,
                                       const char **dtype,
                                       uint64_t *bytes,
                                       strait_error **error);

/**
 * A tensor's shape: `ndim` lengths at `shape`, the first dimension outermost; 0 of them for a single element.
 */
strait_status strait_checkpoint_shape(const strait_checkpoint *checkpoint,
                                      size_t tensor,
                                      const uint64_t **shape,
                                      size_t *ndim,
                                      strait_error **error);

/**
 * Where a tensor's bytes lie: the number of the file, and the first byte in it. Each output may be NULL.
 */
strait_status strait_checkpoint_extent(const strait_checkpoint *checkpoint,
                                       size_t tensor,
                                       size_t *file,
                                       uint64_t *offset,
                                       strait_error **error);

/**
 * The number of files.
 */
strait_status strait_checkpoint_files(const strait_checkpoint *checkpoint,
                                      size_t *files,
                                      strait_error **error);

/**
 * A file's path, and its size in bytes. Each output may be NULL.
 */
strait_status strait_checkpoint_file(const strait_checkpoint *checkpoint,
                                     size_t file,
                                     const char **path,
                                     uint64_t *bytes,
                                     strait_error **error);

/**
 * An entry of what the files' writers had to say (`__metadata__`), by its number from 0, file by file;
 * `STRAIT_STATUS_OUT_OF_RANGE` behind the last.
 */
strait_status strait_checkpoint_metadata(const strait_checkpoint *checkpoint,
                                         size_t entry,
                                         const char **key,
                                         const char **value,
                                         strait_error **error);

/* ---------- Loading checkpoints ---------------------------------------------------------------
 *
 * A load reads each byte once, in file order, and hands tensors over as they finish; they lie dense and aligned in memory of
 * their device. Options first, then `strait_load_builder_start`, then `strait_load_next` until `STRAIT_STATUS_END`.
 */

/**
 * Starts the options of a load of this checkpoint, which may be given back at once. Give the builder back with
 * `strait_load_builder_free`.
 */
strait_status strait_load_builder_new(const strait_checkpoint *checkpoint,
                                      strait_load_builder **builder,
                                      strait_error **error);

/**
 * Gives a builder back, after starting too. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_load_builder_free(strait_load_builder *builder);

/**
 * Adds a device that gets every tensor, or a slice of it. What several devices want is read once. Default: the first CUDA
 * device if it works, else host memory. The device may be given back at once.
 */
strait_status strait_load_builder_device(strait_load_builder *builder,
                                         const strait_device *device,
                                         strait_error **error);

/**
 * Only the tensor of this name, besides others that are named or fit a pattern. Default: all.
 */
strait_status strait_load_builder_name(strait_load_builder *builder,
                                       const char *name,
                                       strait_error **error);

/**
 * Only tensors whose names fit `pattern`, in which `*` stands for any characters and `?` for one, besides others that are
 * named or fit other patterns.
 */
strait_status strait_load_builder_matching(strait_load_builder *builder,
                                           const char *pattern,
                                           strait_error **error);

/**
 * Of the tensors that names and patterns choose, only those that `wanted` wants. It is called with `context` and each one's
 * number, by the threads that call `strait_load_builder_start` and `strait_load_builder_block_size`, before these return. It
 * may call functions of the checkpoint, and none of this builder.
 */
strait_status strait_load_builder_filter(strait_load_builder *builder,
                                         strait_filter wanted,
                                         void *context,
                                         strait_error **error);

/**
 * Of the tensor of that name, device number `device` (in the order in which they were added) gets only elements `from` to
 * `to`, without that, of dimension `dim`: what tensor parallelism wants. Bytes that no device wants are not read.
 * `STRAIT_STATUS_NOT_FOUND` if there is no such tensor.
 */
strait_status strait_load_builder_slice(strait_load_builder *builder,
                                        const char *name,
                                        size_t device,
                                        size_t dim,
                                        uint64_t from,
                                        uint64_t to,
                                        strait_error **error);

/**
 * Device number `device` gets nothing of the tensor of that name: what pipeline parallelism wants.
 * `STRAIT_STATUS_NOT_FOUND` if there is no such tensor.
 */
strait_status strait_load_builder_skip(strait_load_builder *builder,
                                       const char *name,
                                       size_t device,
                                       strait_error **error);

/**
 * Puts what device number `device` gets of the tensor of that name into memory of the caller's: `bytes` bytes from
 * `device_ptr` on, a multiple of the elements' size, in that device's memory. Too few are an error of starting.
 * `STRAIT_STATUS_NOT_FOUND` if there is no such tensor. Bytes go through slabs then, on the host too.
 *
 * Nobody else reads or writes the memory until the tensor is handed over, nor does anything that was put on a stream before:
 * that has ended when the load starts. Once this has succeeded, `release` is called
 * with `owner`, once, when strait uses the memory no more: the builder, the load and the tensor in it are gone, and all
 * writes have ended. It is called in whatever thread that happens, and must not throw; after a failed load it says when
 * the memory may be used again. `release` may be NULL: then the memory is there for ever.
 */
strait_status strait_load_builder_place(strait_load_builder *builder,
                                        const char *name,
                                        size_t device,
                                        uint64_t device_ptr,
                                        uint64_t bytes,
                                        strait_release release,
                                        void *owner,
                                        strait_error **error);

/**
 * Puts all tensors of device number `device` that have no place of their own into one block of the caller's, in place of
 * memory that is allocated: `strait_load_builder_block_size` says how long it has to be. It starts at a multiple
 * of 4096. `release`, which may be NULL, and `owner` are as for `strait_load_builder_place`; of several blocks for one device
 * the first is used.
 */
strait_status strait_load_builder_block(strait_load_builder *builder,
                                        size_t device,
                                        uint64_t device_ptr,
                                        uint64_t bytes,
                                        strait_release release,
                                        void *owner,
                                        strait_error **error);

/**
 * How many bytes `strait_load_builder_block` needs on device number `device`, with the options as they are now: those of
 * the tensors, and where they are read straight to their place (on the host; by cuFile, which is tried for the answer) what is
 * left of the blocks of the file at both ends of each stretch that is read. A block in a CUDA device's memory that has room
 * for the tensors alone is filled through slabs, unless cuFile was asked for.
 */
strait_status strait_load_builder_block_size(strait_load_builder *builder,
                                             size_t device,
                                             uint64_t *bytes,
                                             strait_error **error);

/**
 * Checks the bytes of every tensor against a manifest file before it is handed over: strait's own, `sha256sum`'s, and
 * others.
 */
strait_status strait_load_builder_verify(strait_load_builder *builder,
                                         const char *manifest,
                                         strait_error **error);

/**
 * The storage backend: `"auto"` (default: decided by a probe), `"uring"`, `"pread"`, `"cufile"` (one CUDA device, nothing
 * verified; what is shorter than a MiB, or lies in its file where its elements cannot, goes through slabs all the same).
 */
strait_status strait_load_builder_ring(strait_load_builder *builder,
                                       const char *ring,
                                       strait_error **error);

/**
 * Which way bytes take: `"auto"` (default: direct where possible), `"staged"`.
 */
strait_status strait_load_builder_path(strait_load_builder *builder,
                                       const char *path,
                                       strait_error **error);

/**
 * Whatever takes longer than this many milliseconds is an error that names it. Default 30,000.
 */
strait_status strait_load_builder_deadline_ms(strait_load_builder *builder,
                                              uint64_t deadline_ms,
                                              strait_error **error);

/**
 * The longest read, and the size of a slab, in bytes: a multiple of 4096. Default 4 MiB.
 */
strait_status strait_load_builder_block_bytes(strait_load_builder *builder,
                                              uint64_t block_bytes,
                                              strait_error **error);

/**
 * Wanted bytes that are nearer to each other than this are read as one. Default 32 KiB; at most the longest read, or
 * 1 MiB if that is more.
 */
strait_status strait_load_builder_gap_bytes(strait_load_builder *builder,
                                            uint64_t gap_bytes,
                                            strait_error **error);

/**
 * Alignment of direct reads in bytes: a power of two, at least 4096. Default 4096.
 */
strait_status strait_load_builder_align_bytes(strait_load_builder *builder,
                                              uint64_t align_bytes,
                                              strait_error **error);

/**
 * Reads in flight at most. Default 128.
 */
strait_status strait_load_builder_reads_in_flight(strait_load_builder *builder,
                                                  size_t reads_in_flight,
                                                  strait_error **error);

/**
 * Bytes in flight at most. Default 32 MiB.
 */
strait_status strait_load_builder_bytes_in_flight(strait_load_builder *builder,
                                                  uint64_t bytes_in_flight,
                                                  strait_error **error);

/**
 * Slabs at most, in bytes, whatever the checkpoint's size. Default 256 MiB.
 */
strait_status strait_load_builder_pinned_bytes_max(strait_load_builder *builder,
                                                   uint64_t pinned_bytes_max,
                                                   strait_error **error);

/**
 * Files open at most. Default 256.
 */
strait_status strait_load_builder_open_files_max(strait_load_builder *builder,
                                                 size_t open_files_max,
                                                 strait_error **error);

/**
 * Allocates all memory, starts reading, and returns. A builder starts one load; free it afterwards. Give the load back with
 * `strait_load_free`.
 */
strait_status strait_load_builder_start(strait_load_builder *builder,
                                        strait_load **load,
                                        strait_error **error);

/**
 * Gives a load back; what is in flight ends first. Tensors that were handed over stay. NULL is fine; one that is not live is
 * `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_load_free(strait_load *load);

/**
 * The next tensor that finishes, to be given back with `strait_tensor_free` or `strait_tensor_release_on`.
 *
 * `STRAIT_STATUS_END` once all were handed over. `STRAIT_STATUS_PENDING` if none finishes within `timeout_ms`
 * milliseconds: it may be asked for again. A negative time is without end; no tensor within the load's deadline is an
 * error all the same, after which the load is over.
 */
strait_status strait_load_next(strait_load *load,
                               int64_t timeout_ms,
                               strait_tensor **tensor,
                               strait_error **error);

/**
 * How many tensors are still to come; one counts once for each device that gets a part of it.
 */
strait_status strait_load_remaining(const strait_load *load,
                                    size_t *remaining,
                                    strait_error **error);

/**
 * What the load has done so far, to be given back with `strait_stats_free`.
 */
strait_status strait_load_stats(const strait_load *load,
                                strait_stats **stats,
                                strait_error **error);

/* ---------- Loaded tensors --------------------------------------------------------------------
 *
 * A tensor of a checkpoint, or one device's slice of it, in device memory: dense, in C order. Its bytes are there once
 * `strait_tensor_wait` says so, or on a stream that `strait_tensor_wait_on` has made wait. It outlives its load. Tensors of one
 * load and device share one allocation, which is freed with the last of them. Texts and arrays live as long as the handle.
 * The child of a fork has no handles, but host memory of tensors whose load was over before the fork is there for it to read;
 * that of batches is not.
 */

/**
 * Gives a tensor back; nothing but DLPack tensors of it may use it any more, and the last one to go decides. NULL is fine;
 * one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_tensor_free(strait_tensor *tensor);

/**
 * Its name, the type of its elements (`"bf16"`), and the number of the device it is on, in the order in which the load was
 * given them. Each output may be NULL.
 */
strait_status strait_tensor_name(const strait_tensor *tensor,
                                 const char **name,
                                 const char **dtype,
                                 size_t *device,
                                 strait_error **error);

/**
 * The shape of what is here: `ndim` lengths at `shape`, the first dimension outermost; 0 of them for a single element.
 */
strait_status strait_tensor_shape(const strait_tensor *tensor,
                                  const uint64_t **shape,
                                  size_t *ndim,
                                  strait_error **error);

/**
 * Its first byte in the device's address space, and how many there are. Each output may be NULL.
 */
strait_status strait_tensor_device_ptr(const strait_tensor *tensor,
                                       uint64_t *device_ptr,
                                       uint64_t *bytes,
                                       strait_error **error);

/**
 * Waits, on the host, until its bytes are there; `STRAIT_STATUS_TIMEOUT` after the load's deadline.
 */
strait_status strait_tensor_wait(const strait_tensor *tensor, strait_error **error);

/**
 * Makes `stream` wait until its bytes are there, without blocking the host. `stream` is a live stream of its device, as a
 * number (see Tensors).
 */
strait_status strait_tensor_wait_on(const strait_tensor *tensor,
                                    int64_t stream,
                                    strait_error **error);

/**
 * Gives the tensor back once `stream` has done what is on it now: its memory is freed behind that, or leaked if the stream
 * cannot be asked, which is an error.
 */
strait_status strait_tensor_release_on(strait_tensor *tensor,
                                       int64_t stream,
                                       strait_error **error);

/**
 * Its bytes, where the host can address them, as long as the tensor's handle lives; waits until they are there.
 * `STRAIT_STATUS_CONFIG` if the memory is not the host's.
 */
strait_status strait_tensor_host_bytes(const strait_tensor *tensor,
                                       const uint8_t **data,
                                       size_t *len,
                                       strait_error **error);

/**
 * Copies its bytes to `target`, from whatever device they are on, and waits for it: for checks. `capacity` bytes may be
 * written there, and `len` says how many were; `STRAIT_STATUS_OUT_OF_RANGE` if it has more.
 */
strait_status strait_tensor_read_back(const strait_tensor *tensor,
                                      void *target,
                                      size_t capacity,
                                      size_t *len,
                                      strait_error **error);

/**
 * The tensor as a DLPack tensor, without a copy; it keeps the memory as those of batches do (see Tensors). `flags` is a sum
 * of `STRAIT_TENSOR_`.. or 0; as bytes it has one dimension.
 */
strait_status strait_tensor_dlpack(const strait_tensor *tensor,
                                   int64_t stream,
                                   uint32_t flags,
                                   DLManagedTensorVersioned **dlpack,
                                   strait_error **error);

/**
 * The same as a tensor of DLPack before 1.0, which cannot be read-only.
 */
strait_status strait_tensor_dlpack_legacy(const strait_tensor *tensor,
                                          int64_t stream,
                                          uint32_t flags,
                                          DLManagedTensor **dlpack,
                                          strait_error **error);

/* ---------- Saving checkpoints ----------------------------------------------------------------
 *
 * Writes safetensors files from host or device memory. A crash at any point leaves either the old file or the new one. Make
 * a save, set options, add tensors, and write. A tensor that cannot be saved is refused when it is added, with
 * `STRAIT_STATUS_CONFIG`: a name that is there already or that the format keeps for itself (`__metadata__`), a type that it
 * does not have, a length that is not that of the shape.
 */

/**
 * Makes a save of tensors that live on `device`, or in host memory. Give it back with `strait_save_free`.
 */
strait_status strait_save_new(const strait_device *device,
                              strait_save **save,
                              strait_error **error);

/**
 * Gives a save back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_save_free(strait_save *save);

/**
 * Adds a tensor in host memory: `len` bytes at `data`, which stay as they are until the save is freed. `dtype` is `"f32"`,
 * `"bf16"` ..; `ndim` lengths at `shape`, the first dimension outermost.
 */
strait_status strait_save_add_host(strait_save *save,
                                   const char *name,
                                   const char *dtype,
                                   const uint64_t *shape,
                                   size_t ndim,
                                   const void *data,
                                   size_t len,
                                   strait_error **error);

/**
 * Adds a tensor in the memory of the save's device, whose bytes stay as they are until the save is freed. What is still on
 * its way to them is on the stream of `strait_save_after`.
 */
strait_status strait_save_add_device(strait_save *save,
                                     const char *name,
                                     const char *dtype,
                                     const uint64_t *shape,
                                     size_t ndim,
                                     uint64_t device_ptr,
                                     strait_error **error);

/**
 * Adds a tensor as it was loaded, under its own name. It lives on the save's device, and may be given back at once.
 */
strait_status strait_save_add_loaded(strait_save *save,
                                     const strait_tensor *tensor,
                                     strait_error **error);

/**
 * Adds an entry of `__metadata__`.
 */
strait_status strait_save_metadata(strait_save *save,
                                   const char *key,
                                   const char *value,
                                   strait_error **error);

/**
 * Several files where one would be longer than this many bytes, with an index. Default: one file.
 */
strait_status strait_save_shard_bytes_max(strait_save *save,
                                          uint64_t shard_bytes_max,
                                          strait_error **error);

/**
 * Sums up what is written, on the way, for `strait_saved_manifest`: `algorithm` is `"crc32c"`, `"xxh3-64"` or `"sha256"`; `per`
 * is `"file"`, `"tensor"` or `"both"`. Default: nothing.
 */
strait_status strait_save_digests(strait_save *save,
                                  const char *algorithm,
                                  const char *per,
                                  strait_error **error);

/**
 * The length of one write, and of one slab, in bytes: a multiple of 4096. Default 4 MiB.
 */
strait_status strait_save_block_bytes(strait_save *save, size_t block_bytes, strait_error **error);

/**
 * Writes in flight at most. Default 8.
 */
strait_status strait_save_writes_in_flight(strait_save *save,
                                           size_t writes_in_flight,
                                           strait_error **error);

/**
 * Slabs at most, in bytes. Default 256 MiB.
 */
strait_status strait_save_pinned_bytes_max(strait_save *save,
                                           uint64_t pinned_bytes_max,
                                           strait_error **error);

/**
 * The storage backend: `"auto"`, `"uring"`, `"pread"` (threads).
 */
strait_status strait_save_ring(strait_save *save, const char *ring, strait_error **error);

/**
 * Whatever takes longer than this many milliseconds is an error that names it; the stream of `strait_save_after` has sixty
 * times as long, since it may wait for other ranks. Default 30,000.
 */
strait_status strait_save_deadline_ms(strait_save *save,
                                      uint64_t deadline_ms,
                                      strait_error **error);

/**
 * Reads tensors behind everything that is on `stream` when this is called: a live stream of the save's device until it is
 * written, as a number (see Tensors).
 */
strait_status strait_save_after(strait_save *save,
                                int64_t stream,
                                strait_error **error);

/**
 * Writes the tensors to `path`, in place of what is there. On an error nothing has changed under that name. A save may be
 * written several times. What was written is told by `saved`, which is given back with `strait_saved_free`; it may be NULL.
 */
strait_status strait_save_write(strait_save *save,
                                const char *path,
                                strait_saved **saved,
                                strait_error **error);

/* ---------- Saved checkpoints -----------------------------------------------------------------
 *
 * What a save has written, and how. It does not change. Texts live as long as its handle.
 */

/**
 * Gives it back; the files stay. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
 */
strait_status strait_saved_free(strait_saved *saved);

/**
 * The number of files, and of the bytes of all of them, headers included. Each output may be NULL.
 */
strait_status strait_saved_files(const strait_saved *saved,
                                 size_t *files,
                                 uint64_t *bytes,
                                 strait_error **error);

/**
 * A file's path, by its number from 0.
 */
strait_status strait_saved_file(const strait_saved *saved,
                                size_t file,
                                const char **path,
                                strait_error **error);

/**
 * The path of the index (`model.safetensors.index.json`); `STRAIT_STATUS_ABSENT` where there is one file.
 */
strait_status strait_saved_index(const strait_saved *saved,
                                 const char **path,
                                 strait_error **error);

/**
 * The digests that `strait_save_digests` asked for, as a manifest that `strait_load_builder_verify` reads once it is in a
 * file: `len` bytes of JSON and a NUL. Names in it are relative to the files' directory. `STRAIT_STATUS_ABSENT` where none
 * were asked for. `len` may be NULL.
 */
strait_status strait_saved_manifest(const strait_saved *saved,
                                    const char **json,
                                    size_t *len,
                                    strait_error **error);

/**
 * Which way the bytes took: the storage backend (`"uring"`, `"pread"`), whether the writes bypassed the page cache, and how
 * many bytes of host memory were pinned. Each output may be NULL.
 */
strait_status strait_saved_way(const strait_saved *saved,
                               const char **ring,
                               bool *direct,
                               uint64_t *pinned_bytes,
                               strait_error **error);

/**
 * Something that was wanted and could not be had, by its number from 0: what was done instead, why, and what would change
 * it. `STRAIT_STATUS_OUT_OF_RANGE` behind the last.
 */
strait_status strait_saved_fallback(const strait_saved *saved,
                                    size_t fallback,
                                    const char **value,
                                    strait_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* STRAIT_H */
