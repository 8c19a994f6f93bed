/* What the header says of threads: everything at once, a loader that is freed while others wait, and fork. */
#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define RECORDS 240
#define BYTES 512
#define THREADS 6

static strait_dataset *dataset;
static strait_loader *loader;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned seen[RECORDS];
static strait_batch *shared_batch;

/* Takes batches of one loader, looks at one batch that all share, and reads the stats. */
static void *consumer(void *argument) {
    (void)argument;
    strait_error *own = NULL;
    for (;;) {
        strait_batch *batch = NULL;
        strait_status status = strait_loader_next(loader, -1, &batch, &own);
        if (status == STRAIT_STATUS_END) {
            return NULL;
        }
        CHECK(status == STRAIT_STATUS_OK);
        const uint64_t *samples;
        const uint8_t *data;
        size_t count, len;
        CHECK(strait_batch_samples(batch, &samples, &count, &own) == STRAIT_STATUS_OK);
        for (size_t i = 0; i < count; i++) {
            CHECK(strait_batch_host_bytes(batch, "record", i, &data, &len, &own) == STRAIT_STATUS_OK);
            check_bytes(data, len, samples[i]);
            pthread_mutex_lock(&lock);
            seen[samples[i]]++;
            pthread_mutex_unlock(&lock);
        }
        CHECK(strait_batch_host_bytes(shared_batch, "record", 0, &data, &len, &own) == STRAIT_STATUS_OK);
        check_bytes(data, len, 0);
        DLManagedTensorVersioned *tensor;
        CHECK(strait_batch_sample_tensor(shared_batch, "record", 1, STRAIT_STREAM_NONE, 0, &tensor, &own) ==
              STRAIT_STATUS_OK);
        tensor->deleter(tensor);
        strait_stats *stats;
        CHECK(strait_loader_stats(loader, &stats, &own) == STRAIT_STATUS_OK);
        strait_stats_free(stats);
        CHECK(strait_batch_free(batch) == STRAIT_STATUS_OK);
    }
}

static void in_threads(void *(*run)(void *)) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(!pthread_create(&threads[i], NULL, run, NULL));
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* Waits for a batch that cannot come: all are held. */
static void *waits(void *argument) {
    strait_batch *batch;
    strait_error *own = NULL;
    pthread_mutex_lock(&lock); /* let go when all is ready */
    pthread_mutex_unlock(&lock);
    strait_status status = strait_loader_next(loader, 300, &batch, &own);
    *(strait_status *)argument = status;
    strait_error_free(own);
    return NULL;
}

static void *frees(void *argument) {
    (void)argument;
    strait_status status = strait_loader_free(loader);
    CHECK(status == STRAIT_STATUS_OK || status == STRAIT_STATUS_BAD_HANDLE);
    pthread_mutex_lock(&lock);
    seen[0] += status == STRAIT_STATUS_OK;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void forked(void) {
    strait_batch *batch;
    loader = build(options(dataset, 8));
    OK(strait_loader_begin(loader, 0, &error));
    batch = next(loader);
    DLManagedTensorVersioned *tensor;
    OK(strait_batch_sample_tensor(batch, "record", 0, STRAIT_STREAM_NONE, 0, &tensor, &error));
    pid_t child = fork();
    if (!child) {
        size_t len;
        FAILS(STRAIT_STATUS_BAD_HANDLE, "fork", strait_batch_len(batch, &len, &error));
        CHECK(strait_loader_free(loader) == STRAIT_STATUS_BAD_HANDLE);
        tensor->deleter(tensor); /* as a garbage collector would: the batch is the parent's */
        CHECK(strait_handles_live() == 0);
        /* A loader of its own works. */
        char directory[] = "/tmp/strait-fork-XXXXXX";
        CHECK(mkdtemp(directory));
        strait_dataset *mine = shard(directory, "fork.bin", 32, BYTES);
        loader = build(options(mine, 8));
        OK(strait_loader_begin(loader, 0, &error));
        unsigned samples = 0;
        while ((batch = next(loader))) {
            OK(strait_batch_len(batch, &len, &error));
            samples += (unsigned)len;
            OK(strait_batch_free(batch));
        }
        CHECK(samples == 32);
        OK(strait_loader_free(loader));
        OK(strait_dataset_free(mine));
        char path[64];
        snprintf(path, sizeof path, "%s/fork.bin", directory);
        remove(path);
        rmdir(directory);
        LEAVE(strait_handles_live() == 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_bytes((const unsigned char *)tensor->dl_tensor.data + tensor->dl_tensor.byte_offset, BYTES, 0);
    tensor->deleter(tensor);
    OK(strait_batch_free(batch));
    OK(strait_loader_free(loader));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    dataset = shard(argv[1], "threads.bin", RECORDS, BYTES);
    strait_loader_builder *builder = options(dataset, 4);
    OK(strait_loader_builder_hold(builder, THREADS + 1, &error));
    loader = build(builder);
    OK(strait_loader_begin(loader, 0, &error));
    shared_batch = next(loader);
    in_threads(consumer);
    for (int i = 4; i < RECORDS; i++) {
        CHECK(seen[i] == 1);
    }
    OK(strait_batch_free(shared_batch));
    OK(strait_loader_free(loader));

    /* Freed by several threads at once while another waits: once, and the wait ends by itself. */
    for (int round = 0; round < 3; round++) {
        builder = options(dataset, 4);
        OK(strait_loader_builder_hold(builder, 1, &error));
        OK(strait_loader_builder_prefetch(builder, 1, &error));
        loader = build(builder);
        OK(strait_loader_begin(loader, 0, &error));
        strait_batch *one = next(loader), *two = next(loader);
        strait_status ended = STRAIT_STATUS_OK;
        pthread_t waiting;
        seen[0] = 0;
        pthread_mutex_lock(&lock);
        CHECK(!pthread_create(&waiting, NULL, waits, &ended));
        pthread_mutex_unlock(&lock);
        in_threads(frees);
        pthread_join(waiting, NULL);
        CHECK(seen[0] == 1);
        CHECK(ended == STRAIT_STATUS_PENDING || ended == STRAIT_STATUS_BAD_HANDLE || ended == STRAIT_STATUS_OK);
        OK(strait_batch_free(one));
        OK(strait_batch_free(two));
    }
    forked();
    OK(strait_dataset_free(dataset));
    return finish();
}
