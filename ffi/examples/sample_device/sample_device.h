/*
 * A device in C, as a vendor would add one to strait: each stream is a thread, copies are late and asynchronous, and device
 * memory has addresses that the host cannot follow. It checks its callers and can be made to misbehave, which is what the
 * conformance suite of strait's devices wants of it.
 */
#ifndef SAMPLE_DEVICE_H
#define SAMPLE_DEVICE_H

#include <strait.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sample_device sample_device;

enum sample_fault {
    SAMPLE_NONE,
    SAMPLE_COPY_FAILS,
    SAMPLE_GATHER_FAILS,
    SAMPLE_COPY_OUT_FAILS,
    SAMPLE_MARK_FAILS,
    SAMPLE_STALLS,
    SAMPLE_LOST
};

/* Makes a device, and fills in its table. */
sample_device *sample_device_new(strait_device_vtable *table);

/* Makes the next call of that kind fail, or nothing end any more, or every call fail. */
void sample_device_inject(sample_device *device, enum sample_fault fault);

/* How often a copy met memory that was not pinned or not allocated. */
unsigned sample_device_violations(sample_device *device);

/* Devices that were made and not destroyed; waits until there are no more than that, or 20 s have passed. */
unsigned sample_devices_left(unsigned at_most);

/* A consumer's stream: what runs the kernels that use a batch. */
void *sample_consumer_new(sample_device *device);
void sample_consumer_free(void *consumer);

/* Puts a read of device memory on it; late, as a kernel would be. */
void sample_consumer_read(void *consumer, uint64_t source, void *target, size_t bytes);

/* Nothing on it happens while it is paused: a kernel that takes its time. */
void sample_consumer_pause(void *consumer, bool paused);

/* Waits until all that is on it is done. */
void sample_consumer_wait(void *consumer);

#ifdef __cplusplus
}
#endif

#endif
