// cuBLAS, cuBLASLt and cuFFT: every product and transform is one node, and plans are handles to nothing.
#include "device.h"

#include <stdlib.h>
#include <string.h>

enum { CUBLAS_FAILED = 13, CUFFT_FAILED = 6 }; // CUBLAS_STATUS_EXECUTION_FAILED, CUFFT_EXEC_FAILED

static __thread cudaStream_t blas_stream, fft_stream;

static int node(cudaStream_t stream, const char *name, int failure) {
    pthread_mutex_lock(&lock);
    cudaError_t error = enqueue(stream, name);
    pthread_mutex_unlock(&lock);
    return error ? failure : 0;
}

static int made(void **handle) {
    *handle = malloc(64);
    return *handle ? 0 : 1;
}

static int freed(void *handle) {
    free(handle);
    return 0;
}

// cuBLAS

int cublasCreate_v2(void **handle) {
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cublasCreate"); // it allocates
    pthread_mutex_unlock(&lock);
    return error ? 1 : made(handle);
}

int cublasDestroy_v2(void *handle) {
    return freed(handle);
}

int cublasSetStream_v2(void *handle, cudaStream_t stream) {
    blas_stream = stream;
    return 0;
}

int cublasSetWorkspace_v2(void *handle, void *workspace, size_t size) {
    return 0;
}

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasSetMathMode(void *handle, int mode) {
    return 0;
}

int cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasSetPointerMode_v2(void *handle, int mode) {
    return 0;
}

#define PRODUCT(name)                                                                                                  \
    int name() {                                                                                                       \
        return node(blas_stream, #name, CUBLAS_FAILED);                                                                \
    }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasCgemm_v2)
PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasDgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDotEx)

// cuBLASLt

size_t cublasLtGetVersion(void) {
    return 130100;
}

int cublasLtCreate(void **handle) {
    return made(handle);
}

int cublasLtMatmul(void *handle, void *description, const void *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const void *algorithm, void *workspace, size_t size, cudaStream_t stream) {
    return node(stream, "cublasLtMatmul", CUBLAS_FAILED);
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                   void *preference, int wanted, char *results, int *found) {
    memset(results, 0, 96); // sizeof(cublasLtMatmulHeuristicResult_t)
    *found = 1;
    return 0;
}

int cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    return made(description);
}

int cublasLtMatmulDescDestroy(void *description) {
    return freed(description);
}

int cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t size) {
    return 0;
}

int cublasLtMatmulPreferenceCreate(void **preference) {
    return made(preference);
}

int cublasLtMatmulPreferenceDestroy(void *preference) {
    return freed(preference);
}

int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t size) {
    return 0;
}

int cublasLtMatrixLayoutCreate(void **layout, int type, unsigned long rows, unsigned long columns, long stride) {
    return made(layout);
}

int cublasLtMatrixLayoutDestroy(void *layout) {
    return freed(layout);
}

int cublasLtMatrixLayoutSetAttribute(void *layout, int attribute, const void *value, size_t size) {
    return 0;
}

// cuFFT

int cufftCreate(int *plan) {
    *plan = 1;
    return 0;
}

int cufftDestroy(int plan) {
    return 0;
}

int cufftSetAutoAllocation(int plan, int allocate) {
    return 0;
}

int cufftSetStream(int plan, cudaStream_t stream) {
    fft_stream = stream;
    return 0;
}

int cufftSetWorkArea(int plan, void *area) {
    return 0;
}

int cufftXtMakePlanMany(int plan, int rank, long long *sizes, long long *in_embed, long long in_stride,
                        long long in_distance, int in_type, long long *out_embed, long long out_stride,
                        long long out_distance, int out_type, long long batch, size_t *work, int type) {
    pthread_mutex_lock(&lock);
    cudaError_t error = forbidden("cufftXtMakePlanMany"); // it loads kernels
    pthread_mutex_unlock(&lock);
    *work = 0;
    return error ? CUFFT_FAILED : 0;
}

int cufftXtExec(int plan, void *in, void *out, int direction) {
    return node(fft_stream, "cufftXtExec", CUFFT_FAILED);
}
