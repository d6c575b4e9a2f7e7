// cuDNN's backend interface: every plan fits, and executing one is one node.
#include "device.h"

#include <cudnn_graph.h>
#include <stdlib.h>

// A descriptor remembers only which operation it stands for, to name its node.
typedef struct {
    cudnnBackendDescriptorType_t type, operation;
} Descriptor;

enum { ROOM = 4096, FAILED = CUDNN_STATUS_EXECUTION_FAILED };

static __thread cudaStream_t stream;

static cudnnStatus_t node(const char *name) {
    pthread_mutex_lock(&lock);
    cudaError_t error = enqueue(stream, name);
    pthread_mutex_unlock(&lock);
    return error ? FAILED : CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = malloc(64);
    return *handle ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INTERNAL_ERROR;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t wanted) {
    stream = wanted;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *found) {
    *found = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *created) {
    Descriptor *descriptor = calloc(1, ROOM);
    if (!descriptor)
        return CUDNN_STATUS_INTERNAL_ERROR;
    descriptor->type = type;
    *created = descriptor;
    return CUDNN_STATUS_SUCCESS;
}

// Descriptors share what they are made of, so they are never freed: a rehearsal is short.
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendInitialize(cudnnBackendDescriptor_t descriptor) {
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *elements) {
    Descriptor *own = descriptor;
    const Descriptor *part =
        type == CUDNN_TYPE_BACKEND_DESCRIPTOR && count > 0 && elements ? *(Descriptor *const *)elements : NULL;
    if (part && part->operation)
        own->operation = part->operation;
    if (own->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
        own->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ||
        own->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR)
        own->operation = own->type;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted, int64_t *count,
                                       void *elements) {
    int64_t found = 0;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS || name == CUDNN_ATTR_ENGINECFG_ENGINE) {
        found = 1;
        if (elements && wanted > 0 && *(Descriptor **)elements)
            (*(Descriptor **)elements)->operation = ((const Descriptor *)descriptor)->operation;
    } else if (name == CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT || type == CUDNN_TYPE_INT64) {
        found = 1;
        if (elements) // one engine; a workspace of no bytes
            *(int64_t *)elements = name == CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT;
    }
    if (count)
        *count = found;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    switch (((const Descriptor *)plan)->operation) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return node("cudnn convolution, forward");
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        return node("cudnn convolution, data gradient");
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
        return node("cudnn convolution, weight gradient");
    default:
        return node("cudnn operation");
    }
}

#define OPERATION(name)                                                                                                \
    cudnnStatus_t name() {                                                                                             \
        return node(#name);                                                                                            \
    }
OPERATION(cudnnBatchNormalizationForwardInference)
OPERATION(cudnnPoolingForward)
