// The part of ONNX Runtime's C API that onnxruntime_classify.cpp calls, for where onnxruntime_c_api.h is not at hand,
// as next to Python's wheel. The API is a table of functions that only ever grows at its end, so that each is at its
// place in every release. With the header at hand, use that.
#ifndef AUREVOIR_ONNXRUNTIME_SUBSET_H
#define AUREVOIR_ONNXRUNTIME_SUBSET_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 8

#ifdef __cplusplus
extern "C" {
#endif

typedef struct OrtAllocator OrtAllocator;
typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtModelMetadata OrtModelMetadata;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtValue OrtValue;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum { OrtDeviceAllocator = 0 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7
} ONNXTensorElementDataType;

// A function returns null, or a status to be read and released. The gaps are functions that are not declared here.
typedef struct OrtApi {
    void (*to_2[2])(void);
    const char* (*GetErrorMessage)(const OrtStatus*);
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);
    void (*to_7[3])(void);
    OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**);
    void (*to_9[1])(void);
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const* inputs,
                      size_t input_count, const char* const* output_names, size_t output_count, OrtValue** outputs);
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);
    void (*to_31[20])(void);
    OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*);
    void (*to_37[5])(void);
    OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t, OrtAllocator*, char**);
    void (*to_49[11])(void);
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* shape,
                                                 size_t rank, ONNXTensorElementDataType, OrtValue**);
    void (*to_51[1])(void);
    OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);
    void (*to_60[8])(void);
    OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
    OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
    OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t rank);
    void (*to_64[1])(void);
    OrtStatus* (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
    OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
    void (*to_69[3])(void);
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
    void (*to_76[6])(void);
    OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);
    void (*to_78[1])(void);
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
    void (*to_92[13])(void);
    void (*ReleaseEnv)(OrtEnv*);
    void (*ReleaseStatus)(OrtStatus*);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
    void (*ReleaseSession)(OrtSession*);
    void (*ReleaseValue)(OrtValue*);
    void (*to_99[2])(void);
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
    void (*ReleaseSessionOptions)(OrtSessionOptions*);
    void (*to_111[10])(void);
    OrtStatus* (*SessionGetModelMetadata)(const OrtSession*, OrtModelMetadata**);
    void (*to_116[4])(void);
    OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata*, OrtAllocator*, const char* key, char**);
    void (*to_118[1])(void);
    void (*ReleaseModelMetadata)(OrtModelMetadata*);
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi* (*GetApi)(uint32_t version);
    const char* (*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase* OrtGetApiBase(void);

#ifdef __cplusplus
}
#endif
#endif
