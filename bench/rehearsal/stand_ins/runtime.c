// The CUDA runtime's other entry points: what the device is, its memory, and launches that launch nothing.
#define _GNU_SOURCE
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PROCESSORS = 132, MAX_THREADS = 1024, MAX_GRID_YZ = 65535, SHARED_OPT_IN = 232448, ALIGNMENT = 512 };

static size_t total = 79 * GIBIBYTE;

// The device: an H100

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return device ? result(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    *found = (struct cudaDeviceProp){
        .name = "NVIDIA H100 80GB HBM3",
        .major = 9,
        .minor = 0,
        .totalGlobalMem = total,
        .multiProcessorCount = PROCESSORS,
        .warpSize = 32,
        .maxThreadsPerBlock = MAX_THREADS,
        .maxThreadsPerMultiProcessor = 2048,
        .sharedMemPerBlock = 49152,
        .sharedMemPerMultiprocessor = 233472,
        .sharedMemPerBlockOptin = SHARED_OPT_IN,
        .regsPerBlock = 65536,
        .regsPerMultiprocessor = 65536,
        .l2CacheSize = 52428800,
        .maxBlocksPerMultiProcessor = 32,
        .maxThreadsDim = {MAX_THREADS, MAX_THREADS, 64},
        .maxGridSize = {2147483647, MAX_GRID_YZ, MAX_GRID_YZ},
        .textureAlignment = 512,
        .unifiedAddressing = 1,
        .concurrentKernels = 1,
        .memoryBusWidth = 5120,
        .totalConstMem = 65536,
        .cooperativeLaunch = 1,
        .managedMemory = 1,
    };
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch ((int)attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = PROCESSORS;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = SHARED_OPT_IN;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 49152;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = 233472;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    case cudaDevAttrMaxThreadsPerBlock:
        *value = MAX_THREADS;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrMaxGridDimX:
        *value = 2147483647;
        break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        *value = MAX_GRID_YZ;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = 65536;
        break;
    case cudaDevAttrL2CacheSize:
        *value = 52428800;
        break;
    default: // abilities, most of them
        *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *found, int length, int device) {
    snprintf(found, length, "0000:00:01.0");
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    return result(cudaErrorInvalidDevice);
}

// Memory: the host's, which is mapped and stays untouched until something is copied there

typedef struct {
    char *start;
    size_t length;
} Block;

static Block *blocks;
static int block_count, block_room;

static int find(const void *address) {
    for (int i = 0; i < block_count; i++)
        if ((const char *)address >= blocks[i].start && (const char *)address < blocks[i].start + blocks[i].length)
            return i;
    return -1;
}

int on_device(const void *address) {
    return find(address) >= 0;
}

static cudaError_t allocate(void **pointer, size_t size) {
    size_t length = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT;
    if (counts.used + length > total)
        return result(cudaErrorMemoryAllocation);
    if (block_count == block_room) {
        block_room = block_room ? 2 * block_room : 256;
        blocks = realloc(blocks, block_room * sizeof *blocks);
    }
    char *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED || !blocks)
        return result(cudaErrorMemoryAllocation);
    blocks[block_count++] = (Block){start, length};
    counts.used += length;
    *pointer = start;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **pointer, size_t size) {
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cudaMalloc");
    if (!error)
        error = allocate(pointer, size);
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaFree(void *pointer) {
    if (!pointer)
        return cudaSuccess;
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cudaFree");
    int i = find(pointer);
    if (!error && i >= 0) {
        munmap(blocks[i].start, blocks[i].length);
        counts.used -= blocks[i].length;
        blocks[i] = blocks[--block_count];
    }
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cudaHostAlloc");
    if (!error)
        *pointer = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaFreeHost(void *pointer) {
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
    *available = total - counts.used;
    *all = total;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer) {
    pthread_mutex_lock(&lock);
    int there = on_device(pointer);
    pthread_mutex_unlock(&lock);
    memset(found, 0, sizeof *found);
    found->type = there ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    found->devicePointer = there ? (void *)pointer : NULL;
    return cudaSuccess;
}

// What comes from the device was never computed: it reads as zeros, always the same ones.
static cudaError_t copy(void *to, const void *from, size_t size, cudaStream_t stream, int at_once) {
    pthread_mutex_lock(&lock);
    int there = on_device(to), here = on_device(from);
    counts.to_host += here && !there;
    counts.to_device += there && !here;
    cudaError_t error = at_once ? forbidden("cudaMemcpy") : enqueue(stream, "memcpy");
    int captured = !at_once && is_capturing(stream);
    if (!error && captured && here != there)
        say("-- a copy %s the host is captured: %zu bytes", there ? "from" : "to", size);
    pthread_mutex_unlock(&lock);
    if (!error && !captured && here && !there)
        memset(to, 0, size);
    else if (!error && !captured)
        memmove(to, from, size);
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    return copy(to, from, size, 0, 1);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, from, size, stream, 0);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t size,
                                cudaStream_t stream) {
    return copy(to, from, size, stream, 0);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    cudaError_t error = cudaSuccess;
    for (size_t row = 0; row < height && !error; row++)
        error = copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width, stream, 0);
    return error;
}

cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t size, size_t offset,
                               enum cudaMemcpyKind kind) {
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    static char anywhere[1 << 16];
    *address = anywhere;
    return cudaSuccess;
}

cudaError_t cudaMemset(void *to, int value, size_t size) {
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    cudaError_t error = enqueue(stream, "memset");
    pthread_mutex_unlock(&lock);
    return error;
}

// Launches

typedef struct {
    const void *host;
    const char *name;
} Kernel;

static Kernel *kernels;
static int kernel_count, kernel_room, kernels_sorted;

static int by_address(const void *one, const void *other) {
    const Kernel *a = one, *b = other;
    return a->host < b->host ? -1 : a->host > b->host;
}

// Called as libraries are loaded, once for each kernel in them; here for the kernels' names.
void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name, int limit, void *a,
                            void *b, void *c, void *d, int *e) {
    typedef void Register(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *);
    static Register *real;
    if (!real)
        real = (Register *)dlsym(RTLD_NEXT, "__cudaRegisterFunction");
    if (naming()) {
        if (kernel_count == kernel_room) {
            kernel_room = kernel_room ? 2 * kernel_room : 1 << 16;
            kernels = realloc(kernels, kernel_room * sizeof *kernels);
        }
        kernels[kernel_count++] = (Kernel){host, name};
    }
    if (real)
        real(module, host, device, name, limit, a, b, c, d, e);
}

static const char *name_of(const void *host) {
    if (!naming())
        return "kernel";
    if (kernels_sorted != kernel_count)
        qsort(kernels, kernel_count, sizeof *kernels, by_address);
    kernels_sorted = kernel_count;
    Kernel wanted = {host, NULL}, *found = bsearch(&wanted, kernels, kernel_count, sizeof *kernels, by_address);
    return found ? found->name : "kernel";
}

static cudaError_t launch(const char *name, dim3 grid, dim3 block, cudaStream_t stream) {
    unsigned long long threads = (unsigned long long)block.x * block.y * block.z;
    int fits = grid.x && grid.y && grid.z && grid.y <= MAX_GRID_YZ && grid.z <= MAX_GRID_YZ;
    pthread_mutex_lock(&lock);
    cudaError_t error = enqueue(stream, name);
    pthread_mutex_unlock(&lock);
    if (error || (fits && threads && threads <= MAX_THREADS))
        return error;
    say("!! %s: a grid of %u x %u x %u blocks of %llu threads", name, grid.x, grid.y, grid.z, threads);
    return result(cudaErrorInvalidConfiguration);
}

cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
    return launch(name_of(host), grid, block, stream);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t host, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
    return launch(name_of(host), grid, block, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *with, const void *host, void **arguments) {
    return launch(name_of(host), with->gridDim, with->blockDim, with->stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t shared,
                                        cudaStream_t stream) {
    return launch(name_of(host), grid, block, stream);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    pthread_mutex_lock(&lock);
    cudaError_t error = enqueue(stream, "host function");
    int captured = is_capturing(stream);
    pthread_mutex_unlock(&lock);
    if (!error && !captured)
        function(data);
    return error;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *host) {
    *found = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = MAX_THREADS,
        .numRegs = 32,
        .ptxVersion = 90,
        .binaryVersion = 90,
        .maxDynamicSharedSizeBytes = 49152,
    };
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *host, enum cudaFuncAttribute attribute, int value) {
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *host, int block,
                                                                   size_t shared, unsigned flags) {
    *count = 2;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *host, int block, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(count, host, block, shared, 0);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host) {
    *kernel = (cudaKernel_t)host;
    return cudaSuccess;
}

cudaError_t __cudaInitModule(void **module) {
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **entry, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    *entry = driver ? dlsym(driver, name) : NULL;
    if (found)
        *found = *entry ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

// Called by the stand-in driver (driver.c), which triton launches through

int rehearsal_launch(const char *name, void *stream, const unsigned *grid, unsigned threads) {
    dim3 blocks = {grid[0], grid[1], grid[2]}, block = {threads, 1, 1};
    return launch(name, blocks, block, (cudaStream_t)stream);
}

int rehearsal_load(void) {
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cuModuleLoadData");
    pthread_mutex_unlock(&lock);
    return error;
}

int rehearsal_on_device(const void *address) {
    pthread_mutex_lock(&lock);
    int there = on_device(address);
    pthread_mutex_unlock(&lock);
    return there;
}

// Called by bench/rehearsal/device.py

void rehearsal_counts(Counts *found) {
    pthread_mutex_lock(&lock);
    *found = counts;
    pthread_mutex_unlock(&lock);
}

size_t rehearsal_memory(size_t bytes) {
    size_t before = total;
    total = bytes;
    return before;
}
