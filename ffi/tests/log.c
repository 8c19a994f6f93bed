/* What strait says: to whom, of what level, in which threads; who names another function waits for the one before. */
#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RECORDS 400
#define BYTES 4096
#define THREADS 4

/* What a function was told; once retired, it must not be called. */
typedef struct {
    pthread_mutex_t lock;
    unsigned said, retired;
    uint32_t level;
    char last[512];
    pthread_t thread;
} listener;

static listener listener_new(void) {
    listener own = {.lock = PTHREAD_MUTEX_INITIALIZER};
    return own;
}

static void listen_to(void *context, uint32_t level, const char *source, const char *message) {
    listener *own = context;
    struct timespec while_others_come = {0, 2000000};
    nanosleep(&while_others_come, NULL);
    pthread_mutex_lock(&own->lock);
    CHECK(!own->retired && !strncmp(source, "strait", 6));
    /* Others may be said too, as this machine is. */
    if (strstr(message, "rank 1 of 4") || strstr(message, "cannot be read")) {
        own->said++;
    }
    own->level = level;
    own->thread = pthread_self();
    snprintf(own->last, sizeof own->last, "%s", message);
    pthread_mutex_unlock(&own->lock);
    /* From here this is refused, and not waited for. */
    strait_error *refused = NULL;
    CHECK(strait_log_to(STRAIT_LOG_DEBUG, NULL, NULL, &refused) == STRAIT_STATUS_WRONG_ORDER);
    CHECK(strstr(strait_error_message(refused), "another"));
    strait_error_free(refused);
}

static strait_dataset *dataset;

/* A loader that is told of a rank, and not to look at it, warns. */
static void *warns(void *rounds) {
    for (unsigned round = 0; round < *(unsigned *)rounds; round++) {
        OK(strait_loader_free(build(options(dataset, 8))));
    }
    return NULL;
}

static void levels(void) {
    listener own = listener_new();
    unsigned once = 1;
    warns(&once);
    OK(strait_log_to(STRAIT_LOG_ERROR, listen_to, &own, &error));
    warns(&once);
    CHECK(own.said == 0);
    OK(strait_log_to(STRAIT_LOG_WARNING, listen_to, &own, &error));
    warns(&once);
    CHECK(own.said == 1 && own.level == STRAIT_LOG_WARNING && strstr(own.last, "rank 1 of 4"));
    OK(strait_log_to(STRAIT_LOG_DEBUG, NULL, NULL, &error));
    warns(&once);
    CHECK(own.said == 1);
}

/* Functions are replaced while threads say things; none is called once its turn is over. */
static void in_turns(void) {
    pthread_t threads[THREADS];
    unsigned rounds = slow() ? 3 : 20, said = 0;
    static listener listeners[200];
    size_t turns = slow() ? 20 : 200;
    listeners[0] = listener_new();
    OK(strait_log_to(STRAIT_LOG_WARNING, listen_to, &listeners[0], &error));
    for (int i = 0; i < THREADS; i++) {
        CHECK(!pthread_create(&threads[i], NULL, warns, &rounds));
    }
    for (size_t turn = 1; turn < turns; turn++) {
        listeners[turn] = listener_new();
        OK(strait_log_to(STRAIT_LOG_WARNING, listen_to, &listeners[turn], &error));
        listeners[turn - 1].retired = 1;
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    OK(strait_log_to(0, NULL, NULL, &error));
    for (size_t turn = 0; turn < turns; turn++) {
        said += listeners[turn].said;
    }
    CHECK(said == THREADS * rounds);
}

/* An engine says in its own thread what it leaves out. */
static void from_the_engine(const char *directory) {
    strait_dataset *cut = shard(directory, "log-cut.bin", RECORDS, BYTES);
    strait_loader_builder *builder = options(cut, 4);
    OK(strait_loader_builder_hold(builder, 1, &error));
    OK(strait_loader_builder_prefetch(builder, 1, &error));
    OK(strait_loader_builder_bad_samples_skip(builder, 100, 100, &error));
    strait_loader *loader = build(builder);
    listener own = listener_new();
    OK(strait_log_to(STRAIT_LOG_WARNING, listen_to, &own, &error));
    OK(strait_loader_begin(loader, 0, &error));
    strait_batch *batch = next(loader);
    char path[4096];
    snprintf(path, sizeof path, "%s/log-cut.bin", directory);
    CHECK(!truncate(path, (RECORDS - 1) * BYTES));
    size_t samples = 0, len;
    for (; batch; batch = next(loader)) {
        OK(strait_batch_len(batch, &len, &error));
        samples += len;
        OK(strait_batch_free(batch));
    }
    OK(strait_loader_free(loader));
    OK(strait_log_to(0, NULL, NULL, &error));
    OK(strait_dataset_free(cut));
    CHECK(samples == RECORDS - 1 && own.said >= 1);
    CHECK(strstr(own.last, "399 cannot be read") && !pthread_equal(own.thread, pthread_self()));
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static int inside[2];

static void stays(void *context, uint32_t level, const char *source, const char *message) {
    (void)context, (void)level, (void)source, (void)message;
    CHECK(write(inside[1], "i", 1) == 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

/* A child made while a thread is in the function has no such thread, and does not wait for it. */
static void forked(void) {
    pthread_t thread;
    unsigned once = 1;
    char byte;
    CHECK(!pipe(inside));
    OK(strait_log_to(STRAIT_LOG_WARNING, stays, NULL, &error));
    pthread_mutex_lock(&gate);
    CHECK(!pthread_create(&thread, NULL, warns, &once));
    CHECK(read(inside[0], &byte, 1) == 1);
    pid_t child = fork();
    if (!child) {
        alarm(20);
        LEAVE(strait_log_to(0, NULL, NULL, NULL) == STRAIT_STATUS_OK);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    pthread_mutex_unlock(&gate);
    pthread_join(thread, NULL);
    OK(strait_log_to(0, NULL, NULL, &error));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const char *environment[][2] = {{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}};
    for (size_t i = 0; i < 4; i++) {
        CHECK(!setenv(environment[i][0], environment[i][1], 1));
    }
    dataset = shard(argv[1], "log.bin", RECORDS, 512);
    levels();
    in_turns();
    forked();
    OK(strait_dataset_free(dataset));
    for (size_t i = 0; i < 4; i++) {
        CHECK(!unsetenv(environment[i][0]));
    }
    from_the_engine(argv[1]);
    return finish();
}
