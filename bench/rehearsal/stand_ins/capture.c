// Streams, captures and their rules: CUDA C++ Programming Guide, "Graphs / Creating a graph using stream capture".
#include "device.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    unsigned long long id; // 0: none under way
    int invalid, origin;   // origin: the stream that it began on
    enum cudaStreamCaptureMode mode;
    pthread_t owner;
    long nodes;
} Capture;

typedef struct {
    Capture *capture; // that its work goes to; NULL outside
    int unjoined;     // came into the capture by an event, and has work that the origin does not yet wait for
} Stream;

typedef struct {
    double milliseconds;
    unsigned long long capture; // that it was recorded in; 0 outside
    int stream, recorded;
} Event;

Counts counts;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static Stream streams[MAX_STREAMS];
static int stream_count = 1;
static Capture captures[MAX_STREAMS]; // by the stream that each began on
static unsigned long long last_id;
static __thread enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
static __thread cudaError_t last_error;

void say(const char *format, ...) {
    static FILE *file;
    static int quiet;
    if (!file) {
        const char *path = getenv("REHEARSAL_LOG");
        file = path ? fopen(path, "a") : NULL;
        quiet = !file && !naming();
        file = file ? file : stderr;
        setvbuf(file, NULL, _IOLBF, 0);
    }
    if (quiet && format[0] != '!')
        return;
    char line[512];
    va_list rest;
    va_start(rest, format);
    vsnprintf(line, sizeof line, format, rest);
    va_end(rest);
    fprintf(file, "%s\n", line);
}

int naming(void) {
    static int asked = -1;
    if (asked < 0)
        asked = getenv("REHEARSAL_NODES") != NULL;
    return asked;
}

cudaError_t result(cudaError_t error) {
    if (error)
        last_error = error;
    return error;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

// Handles of streams are their places in `streams`, after the numbers that CUDA keeps for its default streams.
static int place(cudaStream_t stream) {
    uintptr_t handle = (uintptr_t)stream;
    return handle < MAX_DEFAULT_HANDLE || handle >= MAX_DEFAULT_HANDLE + MAX_STREAMS ? DEFAULT_STREAM
                                                                                     : (int)handle - MAX_DEFAULT_HANDLE;
}

static Capture *under_way(void) {
    for (int i = 0; i < stream_count; i++)
        if (captures[i].id)
            return &captures[i];
    return NULL;
}

static cudaError_t broken(Capture *capture, cudaError_t error, const char *call) {
    say("!! %s in a capture", call);
    capture->invalid = 1;
    return result(error);
}

int any_capture(void) {
    return under_way() != NULL;
}

int is_capturing(cudaStream_t stream) {
    return streams[place(stream)].capture != NULL;
}

cudaError_t enqueue(cudaStream_t stream, const char *name) {
    Stream *here = &streams[place(stream)];
    if (here->capture) {
        if (here->capture->invalid)
            return result(cudaErrorStreamCaptureInvalidated);
        here->capture->nodes++;
        here->unjoined = here != &streams[here->capture->origin];
        counts.nodes++;
        if (naming())
            say("node %s", name);
        return cudaSuccess;
    }
    // Legal, and never what was meant: a replay will not do it again.
    if (any_capture())
        say("!! %s beside a capture, on stream %d", name, place(stream));
    counts.launches++;
    return cudaSuccess;
}

cudaError_t forbidden(const char *call) {
    if (thread_mode == cudaStreamCaptureModeRelaxed)
        return cudaSuccess;
    for (int i = 0; i < stream_count; i++) {
        Capture *capture = &captures[i];
        int own = capture->mode == cudaStreamCaptureModeThreadLocal && pthread_equal(capture->owner, pthread_self());
        if (capture->id && (own || capture->mode == cudaStreamCaptureModeGlobal))
            return broken(capture, cudaErrorStreamCaptureUnsupported, call);
    }
    return cudaSuccess;
}

cudaError_t waiting(cudaStream_t stream, int whole, const char *call) {
    counts.synchronisations++;
    Capture *capture = whole ? under_way() : streams[place(stream)].capture;
    return capture ? broken(capture, cudaErrorStreamCaptureUnsupported, call) : cudaSuccess;
}

// Streams

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    pthread_mutex_lock(&lock);
    int room = stream_count < MAX_STREAMS;
    if (room)
        *stream = (cudaStream_t)(uintptr_t)(MAX_DEFAULT_HANDLE + stream_count++);
    pthread_mutex_unlock(&lock);
    return room ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithPriority(stream, 0, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    Capture *capture = streams[place(stream)].capture;
    cudaError_t error = capture ? broken(capture, cudaErrorStreamCaptureUnsupported, "cudaStreamQuery") : cudaSuccess;
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    cudaError_t error = waiting(stream, 0, "cudaStreamSynchronize");
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaDeviceSynchronize(void) {
    pthread_mutex_lock(&lock);
    cudaError_t error = waiting(0, 1, "cudaDeviceSynchronize");
    pthread_mutex_unlock(&lock);
    return error;
}

// Captures

static enum cudaStreamCaptureStatus status(const Stream *stream) {
    if (!stream->capture)
        return cudaStreamCaptureStatusNone;
    return stream->capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *found) {
    *found = status(&streams[place(stream)]);
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *found, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count) {
    const Stream *here = &streams[place(stream)];
    *found = status(here);
    if (id)
        *id = here->capture ? here->capture->id : 0;
    if (graph)
        *graph = (cudaGraph_t)1;
    if (dependencies)
        *dependencies = NULL;
    if (edges)
        *edges = NULL;
    if (count)
        *count = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    pthread_mutex_lock(&lock);
    int at = place(stream);
    cudaError_t error = cudaSuccess;
    if (at == DEFAULT_STREAM) {
        error = result(cudaErrorStreamCaptureUnsupported);
    } else if (streams[at].capture) {
        error = broken(streams[at].capture, cudaErrorIllegalState, "cudaStreamBeginCapture");
    } else {
        captures[at] = (Capture){++last_id, 0, at, mode, pthread_self(), 0};
        streams[at] = (Stream){&captures[at], 0};
    }
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    pthread_mutex_lock(&lock);
    int at = place(stream);
    Capture *capture = &captures[at];
    cudaError_t error = capture->id ? cudaSuccess : cudaErrorIllegalState;
    if (capture->invalid)
        error = cudaErrorStreamCaptureInvalidated;
    for (int i = 0; i < stream_count && capture->id; i++)
        if (streams[i].capture == capture) {
            if (streams[i].unjoined && !error) {
                say("!! stream %d was not joined again to the capture", i);
                error = cudaErrorStreamCaptureUnjoined;
            }
            streams[i] = (Stream){NULL, 0};
        }
    say("capture: %ld nodes%s", capture->nodes, error ? ", broken" : "");
    counts.captures += !error;
    counts.broken += error != cudaSuccess;
    *graph = error ? NULL : (cudaGraph_t)(uintptr_t)(capture->nodes + 1);
    capture->id = 0;
    capture->invalid = 0;
    pthread_mutex_unlock(&lock);
    return result(error);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

// Graphs: a handle is the number of nodes, plus one.

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    *count = (uintptr_t)graph - 1;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    *executable = (cudaGraphExec_t)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    return cudaGraphInstantiateWithFlags(executable, graph, flags);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    counts.replays++;
    cudaError_t error = is_capturing(stream) ? enqueue(stream, "graph") : cudaSuccess;
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    return cudaSuccess;
}

cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char *path, unsigned flags) {
    return cudaSuccess;
}

// Events

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = (cudaEvent_t)calloc(1, sizeof(Event));
    return *event ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    pthread_mutex_lock(&lock);
    int at = place(stream);
    const Capture *capture = streams[at].capture;
    *(Event *)event = (Event){now(), capture ? capture->id : 0, at, 1};
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, 0);
}

// A stream that waits for captured work comes into the capture; a captured stream cannot wait for other work.
static cudaError_t wait_for(Stream *here, const Event *event) {
    Capture *theirs = under_way();
    if (event->capture && theirs && theirs->id == event->capture) {
        if (here == &streams[DEFAULT_STREAM])
            return broken(theirs, cudaErrorStreamCaptureImplicit, "cudaStreamWaitEvent by the default stream");
        if (here->capture && here->capture != theirs)
            return broken(theirs, cudaErrorStreamCaptureMerge, "cudaStreamWaitEvent on another capture");
        if (here->capture == theirs)
            streams[event->stream].unjoined = 0;
        else
            *here = (Stream){theirs, 1};
        return cudaSuccess;
    }
    if (here->capture && event->recorded)
        return broken(here->capture, cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent on work outside");
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    pthread_mutex_lock(&lock);
    cudaError_t error = wait_for(&streams[place(stream)], (const Event *)event);
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cudaEventQuery");
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    pthread_mutex_lock(&lock);
    counts.synchronisations++;
    cudaError_t error = forbidden("cudaEventSynchronize");
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    double taken = ((const Event *)to)->milliseconds - ((const Event *)from)->milliseconds;
    *milliseconds = taken > 1e-3 ? (float)taken : 1e-3f;
    return cudaSuccess;
}
