#define _POSIX_C_SOURCE 200809L

#include "sample_device.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Set in every device address, so that no device address is one of the host's. */
#define DEVICE_BIT ((uint64_t)1 << 62)
#define RANGES_MAX 64

enum code { LOST = 900, FAULT = 901, UNPINNED = 902, NO_MEMORY = 903, UNKNOWN = 904 };

typedef struct {
    uint64_t base;
    size_t bytes;
} range;

struct sample_device {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* about everything; simple, not fast */
    range memory[RANGES_MAX];
    range pinned[RANGES_MAX];
    enum sample_fault fault;
    unsigned violations;
    unsigned streams;
    bool destroyed;
};

typedef struct {
    uint64_t recorded;
    uint64_t passed;
    unsigned users;
} fence;

typedef struct stream stream;

enum what { COPY, COPY_OUT, GATHER, CAST, READ, MARK, PASS, WAIT_FENCE, WAIT_MARK };

typedef struct op {
    struct op *next;
    enum what what;
    uint64_t device_at;
    char *host_at;
    size_t bytes;
    strait_move *moves;
    size_t count;
    strait_cast cast;
    uint64_t number; /* of a mark, or of a record of a fence */
    fence *fence;
    stream *other;
} op;

/* Ops are let go by a mark, as a doorbell; a consumer's at once. */
struct stream {
    sample_device *device;
    op *first, **last;
    size_t let_go, waiting;
    uint64_t marked, reached;
    unsigned users;
    bool closed, busy, paused;
};

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t devices_changed = PTHREAD_COND_INITIALIZER;
static unsigned devices;

/* ---- with the lock held ---- */

static bool inside(const range *ranges, uint64_t base, size_t bytes) {
    for (int i = 0; i < RANGES_MAX; i++) {
        if (ranges[i].bytes && ranges[i].base <= base && base + bytes <= ranges[i].base + ranges[i].bytes) {
            return true;
        }
    }
    return false;
}

static range *find(range *ranges, uint64_t base) {
    for (int i = 0; i < RANGES_MAX; i++) {
        if (ranges[i].bytes && ranges[i].base == base) {
            return &ranges[i];
        }
    }
    return NULL;
}

static bool add(range *ranges, uint64_t base, size_t bytes) {
    for (int i = 0; i < RANGES_MAX; i++) {
        if (!ranges[i].bytes) {
            ranges[i] = (range){base, bytes};
            return true;
        }
    }
    return false;
}

static void drop_fence(fence *fence) {
    if (--fence->users == 0) {
        free(fence);
    }
}

static void drop_stream(stream *stream) {
    if (--stream->users == 0) {
        stream->device->streams--;
        pthread_cond_broadcast(&stream->device->changed);
        free(stream);
    }
}

/* Lets go of the lock, and of the device if strait and all streams are through with it. */
static void leave(sample_device *device) {
    bool last = device->destroyed && !device->streams;
    pthread_mutex_unlock(&device->lock);
    if (last) {
        pthread_mutex_destroy(&device->lock);
        pthread_cond_destroy(&device->changed);
        free(device);
        pthread_mutex_lock(&devices_lock);
        devices--;
        pthread_cond_broadcast(&devices_changed);
        pthread_mutex_unlock(&devices_lock);
    }
}

static void push(stream *stream, op value) {
    op *new = malloc(sizeof *new);
    *new = value;
    new->next = NULL;
    *stream->last = new;
    stream->last = &new->next;
    stream->waiting++;
}

static void let_go(stream *stream) {
    stream->let_go += stream->waiting;
    stream->waiting = 0;
    pthread_cond_broadcast(&stream->device->changed);
}

/* Once, and then no more. */
static bool fails(sample_device *device, enum sample_fault fault) {
    if (device->fault != fault) {
        return false;
    }
    device->fault = SAMPLE_NONE;
    return true;
}

static bool ready(const op *op) {
    switch (op->what) {
    case WAIT_FENCE: return op->fence->passed >= op->number;
    case WAIT_MARK: return op->other->reached >= op->number;
    default: return true;
    }
}

/* ---- a stream's thread ---- */

static char *host_of(uint64_t at) { return (char *)(uintptr_t)(at & ~DEVICE_BIT); }

/* The nearest of the numbers of 16 bits that have so many for the fraction; ties to even. Numbers are finite. */
static uint16_t half(float value, int fraction_bits, int bias) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (bits >> 16) & 0x8000, infinity = (uint16_t)((2 * bias + 1) << fraction_bits);
    int exponent = (int)((bits >> 23) & 0xFF) - 127;
    uint64_t fraction = (bits & 0x7FFFFF) | (uint64_t)(exponent > -127) << 23; /* in units of 2^(exponent - 23) */
    exponent += exponent == -127;
    int least = 1 - bias, own = exponent < least ? least : exponent;
    int drop = 23 - fraction_bits + own - exponent;
    if (drop > 40) {
        return sign;
    }
    uint64_t kept = fraction >> drop, rest = fraction & (((uint64_t)1 << drop) - 1), tie = (uint64_t)1 << (drop - 1);
    kept += rest > tie || (rest == tie && (kept & 1));
    uint64_t all = ((uint64_t)(own - least) << fraction_bits) + kept; /* a leading one carries into the exponent */
    return sign | (all < infinity ? (uint16_t)all : infinity);
}

static size_t stored_bytes(strait_cast_kind kind) {
    return kind >= STRAIT_CAST_KIND_U8_TO_F32 ? 1 : kind >= STRAIT_CAST_KIND_U32_TO_I64 ? 4 : 2;
}

/* One element, at any address. */
static size_t put(const strait_cast *cast, const unsigned char *from, unsigned char *to) {
    uint32_t bits = from[0];
    for (size_t i = 1; i < stored_bytes(cast->kind); i++) {
        bits |= (uint32_t)from[i] << (8 * i);
    }
    int64_t whole = cast->kind == STRAIT_CAST_KIND_I32_TO_I64 ? (int32_t)bits : (int64_t)bits;
    int32_t narrow = (int32_t)whole;
    volatile float product = (float)bits * cast->factor; /* rounded, not fused */
    float number = product + cast->bias;
    uint16_t small;
    switch (cast->kind) {
    case STRAIT_CAST_KIND_U16_TO_I32: memcpy(to, &narrow, 4); return 4;
    case STRAIT_CAST_KIND_U8_TO_F32: memcpy(to, &number, 4); return 4;
    case STRAIT_CAST_KIND_U8_TO_F16: small = half(number, 10, 15); memcpy(to, &small, 2); return 2;
    case STRAIT_CAST_KIND_U8_TO_BF16: small = half(number, 7, 127); memcpy(to, &small, 2); return 2;
    default: memcpy(to, &whole, 8); return 8;
    }
}

/* Without the lock: the bytes are moved while others go on. */
static void move(const op *op) {
    struct timespec late = {0, 50000};
    nanosleep(&late, NULL);
    switch (op->what) {
    case COPY: memcpy(host_of(op->device_at), op->host_at, op->bytes); break;
    case COPY_OUT:
    case READ: memcpy(op->host_at, host_of(op->device_at), op->bytes); break;
    case GATHER:
        for (size_t i = 0; i < op->count; i++) {
            const strait_move *m = &op->moves[i];
            memcpy(host_of(op->device_at + m->target), host_of(op->device_at + m->source), m->bytes);
        }
        break;
    case CAST:
        for (size_t i = 0; i < op->count; i++) {
            const strait_move *m = &op->moves[i];
            unsigned char *to = (unsigned char *)host_of(op->device_at + m->target);
            const unsigned char *from = (unsigned char *)host_of(op->device_at + m->source);
            for (uint64_t at = 0; at < m->bytes; at += stored_bytes(op->cast.kind)) {
                to += put(&op->cast, from + at, to);
            }
        }
        break;
    default: break;
    }
}

static bool allowed(sample_device *device, const op *op) {
    if (op->what == COPY || op->what == COPY_OUT) {
        uint64_t host = (uint64_t)(uintptr_t)op->host_at;
        return inside(device->memory, op->device_at, op->bytes) && inside(device->pinned, host, op->bytes);
    }
    return op->what > READ || op->what == GATHER || op->what == CAST || inside(device->memory, op->device_at, op->bytes);
}

static void *run(void *argument) {
    stream *stream = argument;
    sample_device *device = stream->device;
    pthread_mutex_lock(&device->lock);
    for (;;) {
        op *next = stream->first;
        if (!stream->let_go && stream->closed) {
            break;
        }
        if (!stream->let_go || device->fault == SAMPLE_STALLS || stream->paused || !ready(next)) {
            pthread_cond_wait(&device->changed, &device->lock);
            continue;
        }
        if (allowed(device, next)) {
            stream->busy = true;
            pthread_mutex_unlock(&device->lock);
            move(next);
            pthread_mutex_lock(&device->lock);
            stream->busy = false;
        } else {
            device->violations++;
        }
        if (next->what == MARK) {
            stream->reached = next->number;
        }
        if (next->what == PASS && next->fence->passed < next->number) {
            next->fence->passed = next->number;
        }
        stream->first = next->next;
        if (!stream->first) {
            stream->last = &stream->first;
        }
        stream->let_go--;
        if (next->fence) {
            drop_fence(next->fence);
        }
        if (next->other) {
            drop_stream(next->other);
        }
        free(next->moves);
        free(next);
        pthread_cond_broadcast(&device->changed);
    }
    drop_stream(stream);
    leave(device);
    return NULL;
}

static stream *new_stream(sample_device *device) {
    stream *new = calloc(1, sizeof *new);
    new->device = device;
    new->last = &new->first;
    new->users = 2; /* its thread, and who asked for it */
    pthread_t thread;
    pthread_mutex_lock(&device->lock);
    device->streams++;
    pthread_mutex_unlock(&device->lock);
    pthread_create(&thread, NULL, run, new);
    pthread_detach(thread);
    return new;
}

/* ---- the table ---- */

#define LOCKED(device, ...)                                                                                            \
    pthread_mutex_lock(&(device)->lock);                                                                               \
    int32_t code = (device)->fault == SAMPLE_LOST ? LOST : 0;                                                          \
    if (!code) {                                                                                                       \
        __VA_ARGS__                                                                                                    \
    }                                                                                                                  \
    pthread_mutex_unlock(&(device)->lock);                                                                             \
    return code

static void destroy(void *self) {
    sample_device *device = self;
    pthread_mutex_lock(&device->lock);
    device->destroyed = true;
    leave(device);
}

static int32_t allocate(void *self, size_t bytes, uint64_t *base) {
    sample_device *device = self;
    LOCKED(device, {
        void *memory = NULL;
        if (posix_memalign(&memory, 4096, bytes ? bytes : 1)) {
            code = NO_MEMORY;
        } else if (!add(device->memory, (uint64_t)(uintptr_t)memory | DEVICE_BIT, bytes ? bytes : 1)) {
            free(memory);
            code = NO_MEMORY;
        } else {
            *base = (uint64_t)(uintptr_t)memory | DEVICE_BIT;
        }
    });
}

static void give_back(void *self, uint64_t base, size_t bytes) {
    sample_device *device = self;
    (void)bytes;
    pthread_mutex_lock(&device->lock);
    range *own = find(device->memory, base);
    if (own) {
        own->bytes = 0;
        free(host_of(base));
    } else {
        device->violations++;
    }
    pthread_mutex_unlock(&device->lock);
}

static int32_t pin(void *self, void *base, size_t bytes) {
    sample_device *device = self;
    uint64_t at = (uint64_t)(uintptr_t)base;
    LOCKED(device, code = find(device->pinned, at) || !add(device->pinned, at, bytes) ? FAULT : 0;);
}

static int32_t unpin(void *self, void *base) {
    sample_device *device = self;
    pthread_mutex_lock(&device->lock);
    range *own = find(device->pinned, (uint64_t)(uintptr_t)base);
    if (own) {
        own->bytes = 0;
    }
    pthread_mutex_unlock(&device->lock);
    return own ? 0 : FAULT;
}

static int32_t stream_create(void *self, void **out) {
    sample_device *device = self;
    if (device->fault == SAMPLE_LOST) {
        return LOST;
    }
    *out = new_stream(device);
    return 0;
}

static void stream_destroy(void *self, void *gone) {
    sample_device *device = self;
    stream *stream = gone;
    pthread_mutex_lock(&device->lock);
    let_go(stream);
    stream->closed = true;
    drop_stream(stream);
    pthread_cond_broadcast(&device->changed);
    leave(device);
}

static int32_t copy(void *self, void *on, const void *source, uint64_t target, size_t bytes) {
    sample_device *device = self;
    LOCKED(device, {
        if (fails(device, SAMPLE_COPY_FAILS)) {
            code = FAULT;
        } else if (!inside(device->pinned, (uint64_t)(uintptr_t)source, bytes)) {
            code = UNPINNED;
        } else {
            push(on, (op){.what = COPY, .device_at = target, .host_at = (char *)(uintptr_t)source, .bytes = bytes});
        }
    });
}

static int32_t copy_out(void *self, void *on, uint64_t source, void *target, size_t bytes) {
    sample_device *device = self;
    LOCKED(device, {
        if (fails(device, SAMPLE_COPY_OUT_FAILS)) {
            code = FAULT;
        } else if (!inside(device->pinned, (uint64_t)(uintptr_t)target, bytes)) {
            code = UNPINNED;
        } else {
            push(on, (op){.what = COPY_OUT, .device_at = source, .host_at = target, .bytes = bytes});
        }
    });
}

static int32_t push_moves(sample_device *device, stream *on, op value, const strait_move *moves) {
    LOCKED(device, {
        if (fails(device, SAMPLE_GATHER_FAILS)) {
            code = FAULT;
        } else {
            value.moves = malloc((value.count ? value.count : 1) * sizeof *moves);
            if (value.count) {
                memcpy(value.moves, moves, value.count * sizeof *moves);
            }
            push(on, value);
        }
    });
}

static int32_t gather(void *self, void *on, uint64_t base, const strait_move *moves, size_t count) {
    return push_moves(self, on, (op){.what = GATHER, .device_at = base, .count = count}, moves);
}

static int32_t cast(void *self, void *on, uint64_t base, const strait_cast *cast, const strait_move *moves,
                    size_t count) {
    if (cast->kind < STRAIT_CAST_KIND_U16_TO_I32 || cast->kind > STRAIT_CAST_KIND_U8_TO_BF16) {
        return UNKNOWN;
    }
    return push_moves(self, on, (op){.what = CAST, .device_at = base, .count = count, .cast = *cast}, moves);
}

static int32_t mark(void *self, void *on, uint64_t *number) {
    sample_device *device = self;
    stream *stream = on;
    LOCKED(device, {
        if (fails(device, SAMPLE_MARK_FAILS)) {
            code = FAULT;
        } else {
            *number = ++stream->marked;
            push(stream, (op){.what = MARK, .number = *number});
            let_go(stream);
        }
    });
}

static int32_t reached(void *self, void *on, uint64_t *number) {
    sample_device *device = self;
    stream *stream = on;
    LOCKED(device, *number = stream->reached;);
}

static int32_t wait(void *self, void *on, uint64_t number, uint64_t timeout_ns, bool *done) {
    sample_device *device = self;
    stream *stream = on;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t seconds = timeout_ns / 1000000000u, rest = timeout_ns % 1000000000u + (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(seconds + rest / 1000000000u);
    until.tv_nsec = (long)(rest % 1000000000u);
    LOCKED(device, {
        int late = 0;
        while (stream->reached < number && late != ETIMEDOUT && device->fault != SAMPLE_LOST) {
            late = pthread_cond_timedwait(&device->changed, &device->lock, &until);
        }
        *done = stream->reached >= number;
    });
}

static int32_t wait_on(void *self, void *on, uint64_t number, void *consumer) {
    sample_device *device = self;
    stream *stream = on;
    LOCKED(device, {
        stream->users++;
        push(consumer, (op){.what = WAIT_MARK, .other = stream, .number = number});
        let_go(consumer);
    });
}

static int32_t fence_create(void *self, uint64_t *out) {
    sample_device *device = self;
    LOCKED(device, {
        fence *new = calloc(1, sizeof *new);
        new->users = 1;
        *out = (uint64_t)(uintptr_t)new;
    });
}

static void fence_destroy(void *self, uint64_t gone) {
    sample_device *device = self;
    pthread_mutex_lock(&device->lock);
    drop_fence((fence *)(uintptr_t)gone);
    pthread_mutex_unlock(&device->lock);
}

static int32_t record(void *self, uint64_t at, void *consumer) {
    sample_device *device = self;
    fence *fence = (void *)(uintptr_t)at;
    LOCKED(device, {
        fence->users++;
        push(consumer, (op){.what = PASS, .fence = fence, .number = ++fence->recorded});
        let_go(consumer);
    });
}

static int32_t wait_fence(void *self, void *on, uint64_t at) {
    sample_device *device = self;
    fence *fence = (void *)(uintptr_t)at;
    LOCKED(device, {
        fence->users++;
        push(on, (op){.what = WAIT_FENCE, .fence = fence, .number = fence->recorded});
    });
}

static int32_t read_back(void *self, uint64_t source, void *target, size_t bytes) {
    sample_device *device = self;
    LOCKED(device, {
        if (bytes && !inside(device->memory, source, bytes)) {
            code = FAULT;
        } else if (bytes) {
            memcpy(target, host_of(source), bytes);
        }
    });
}

static const char *error_name(void *self, int32_t code) {
    (void)self;
    switch (code) {
    case LOST: return "SAMPLE_LOST";
    case FAULT: return "SAMPLE_FAULT";
    case UNPINNED: return "SAMPLE_UNPINNED";
    case UNKNOWN: return "SAMPLE_UNKNOWN";
    case NO_MEMORY: return "SAMPLE_NO_MEMORY";
    default: return NULL;
    }
}

sample_device *sample_device_new(strait_device_vtable *table) {
    sample_device *device = calloc(1, sizeof *device);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&device->lock, NULL);
    pthread_cond_init(&device->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_lock(&devices_lock);
    devices++;
    pthread_mutex_unlock(&devices_lock);
    *table = (strait_device_vtable){
        .size = sizeof *table,
        .dlpack_type = 12, /* kDLExtDev */
        .dlpack_id = 3,
        .name = "sample:3",
        .destroy = destroy,
        .allocate = allocate,
        .free = give_back,
        .pin = pin,
        .unpin = unpin,
        .stream_create = stream_create,
        .stream_destroy = stream_destroy,
        .copy = copy,
        .copy_out = copy_out,
        .mark = mark,
        .reached = reached,
        .wait = wait,
        .wait_on = wait_on,
        .fence_create = fence_create,
        .fence_destroy = fence_destroy,
        .record = record,
        .wait_fence = wait_fence,
        .read_back = read_back,
        .gather = gather,
        .cast = cast,
        .error_name = error_name,
    };
    return device;
}

void sample_device_inject(sample_device *device, enum sample_fault fault) {
    pthread_mutex_lock(&device->lock);
    device->fault = fault;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

unsigned sample_device_violations(sample_device *device) {
    pthread_mutex_lock(&device->lock);
    unsigned violations = device->violations;
    pthread_mutex_unlock(&device->lock);
    return violations;
}

unsigned sample_devices_left(unsigned at_most) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&devices_lock);
    while (devices > at_most && pthread_cond_timedwait(&devices_changed, &devices_lock, &until) != ETIMEDOUT) {
    }
    unsigned left = devices;
    pthread_mutex_unlock(&devices_lock);
    return left;
}

void *sample_consumer_new(sample_device *device) { return new_stream(device); }

void sample_consumer_free(void *consumer) { stream_destroy(((stream *)consumer)->device, consumer); }

void sample_consumer_read(void *consumer, uint64_t source, void *target, size_t bytes) {
    stream *stream = consumer;
    pthread_mutex_lock(&stream->device->lock);
    push(stream, (op){.what = READ, .device_at = source, .host_at = target, .bytes = bytes});
    let_go(stream);
    pthread_mutex_unlock(&stream->device->lock);
}

void sample_consumer_pause(void *consumer, bool paused) {
    stream *stream = consumer;
    pthread_mutex_lock(&stream->device->lock);
    stream->paused = paused;
    pthread_cond_broadcast(&stream->device->changed);
    pthread_mutex_unlock(&stream->device->lock);
}

void sample_consumer_wait(void *consumer) {
    stream *stream = consumer;
    pthread_mutex_lock(&stream->device->lock);
    while (stream->first || stream->busy) {
        pthread_cond_wait(&stream->device->changed, &stream->device->lock);
    }
    pthread_mutex_unlock(&stream->device->lock);
}
