// Holds examples/cpp/onnxruntime_subset.h to ONNX Runtime's own header: each function is at the same
// place. Both define the same names, so the subset goes into a namespace, and its one function has another name.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <onnxruntime_c_api.h>

#undef ORT_API_VERSION
#define OrtGetApiBase SubsetGetApiBase
namespace subset {
#include "onnxruntime_subset.h"
}

#define SAME(name) static_assert(offsetof(OrtApi, name) == offsetof(subset::OrtApi, name), #name)
SAME(GetErrorMessage);
SAME(CreateEnv);
SAME(CreateSession);
SAME(Run);
SAME(CreateSessionOptions);
SAME(SessionGetOutputCount);
SAME(SessionGetOutputName);
SAME(CreateTensorWithDataAsOrtValue);
SAME(GetTensorMutableData);
SAME(GetTensorElementType);
SAME(GetDimensionsCount);
SAME(GetDimensions);
SAME(GetTensorShapeElementCount);
SAME(GetTensorTypeAndShape);
SAME(CreateCpuMemoryInfo);
SAME(AllocatorFree);
SAME(GetAllocatorWithDefaultOptions);
SAME(ReleaseEnv);
SAME(ReleaseStatus);
SAME(ReleaseMemoryInfo);
SAME(ReleaseSession);
SAME(ReleaseValue);
SAME(ReleaseTensorTypeAndShapeInfo);
SAME(ReleaseSessionOptions);
SAME(SessionGetModelMetadata);
SAME(ModelMetadataLookupCustomMetadataMap);
SAME(ReleaseModelMetadata);
static_assert(int(ORT_LOGGING_LEVEL_ERROR) == int(subset::ORT_LOGGING_LEVEL_ERROR));
static_assert(int(OrtDeviceAllocator) == int(subset::OrtDeviceAllocator));
static_assert(int(OrtMemTypeDefault) == int(subset::OrtMemTypeDefault));
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) == int(subset::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) == int(subset::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8));
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) == int(subset::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64));

int main() {}
