// What the files of the stand-in device share: its log, its captures, and the two ways to ask whether a call may be
// made.
#pragma once

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stddef.h>

enum { DEFAULT_STREAM = 0, MAX_STREAMS = 4096, MAX_DEFAULT_HANDLE = 16 };
static const size_t GIBIBYTE = (size_t)1 << 30;

// What was done so far; `bench.rehearsal.device` reads it in this order.
typedef struct {
    long launches;         // outside captures
    long nodes;            // inside
    long replays;          // of graphs
    long captures;         // that ended well
    long broken;           // that did not
    long synchronisations; // of the host with a stream, an event or the device
    long to_device;        // copies from the host
    long to_host;          // copies to the host
    long used;             // bytes
} Counts;

// Nobody else's symbols: the library that they are in comes before all others.
#pragma GCC visibility push(hidden)

extern Counts counts;
extern pthread_mutex_t lock; // of all that is shared

// A line into the file that REHEARSAL_LOG names; without one only what breaks a rule ("!!") is said, on stderr.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// What a runtime call returns; an error is kept for cudaGetLastError.
cudaError_t result(cudaError_t error);

// Whether the environment asks for a line about every node of every capture (REHEARSAL_NODES).
int naming(void);

// Put work into a stream: a node where the stream is captured. `name` is what it is.
cudaError_t enqueue(cudaStream_t stream, const char *name);

// Ask for what may not be done while a capture is under way that this thread has to heed.
cudaError_t forbidden(const char *call);

// Ask for what waits for a stream, or for all of them (`whole`).
cudaError_t waiting(cudaStream_t stream, int whole, const char *call);

int is_capturing(cudaStream_t stream);

// Whether any stream is; used by what has no stream of its own.
int any_capture(void);

// Whether an address lies on the device.
int on_device(const void *address);

#pragma GCC visibility pop
