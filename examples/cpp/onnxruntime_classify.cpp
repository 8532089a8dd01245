// Labels photographs by an engine exported with `aurevoir export --to onnx`, by ONNX Runtime's C API. See docs/cpp.md.
//
//     onnxruntime_classify lite0.onnx photo.jpg ...
#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "onnxruntime_subset.h"
#endif

#include "aurevoir.hpp"

namespace {

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
    if (!status) return;
    const std::string why = api->GetErrorMessage(status);
    api->ReleaseStatus(status);
    aurevoir::fail(why);
}

// An object of ONNX Runtime, released with its owner.
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

template <class T, class Make>
Owned<T> made(void (*release)(T*), Make make) {
    T* object = nullptr;
    check(make(&object));
    return {object, release};
}

size_t element_size(ONNXTensorElementDataType type) {
    switch (type) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return 1;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return 4;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return 8;
        default: aurevoir::fail("an output has a type that engines do not have");
    }
}

class OnnxRuntimeEngine : public aurevoir::Engine {
public:
    explicit OnnxRuntimeEngine(const std::string& path)
        : environment(made<OrtEnv>(api->ReleaseEnv, [](auto** to) {
              return api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "aurevoir", to);
          })),
          options(made<OrtSessionOptions>(api->ReleaseSessionOptions, api->CreateSessionOptions)),
          session(made<OrtSession>(api->ReleaseSession, [&](auto** to) {
              return api->CreateSession(environment.get(), path.c_str(), options.get(), to);
          })),
          memory(made<OrtMemoryInfo>(api->ReleaseMemoryInfo, [](auto** to) {
              return api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, to);
          })) {
        check(api->GetAllocatorWithDefaultOptions(&allocator));
        const auto described = made<OrtModelMetadata>(api->ReleaseModelMetadata, [&](auto** to) {
            return api->SessionGetModelMetadata(session.get(), to);
        });
        about = aurevoir::read_metadata([&](const std::string& key) {
            char* text = nullptr;
            check(api->ModelMetadataLookupCustomMetadataMap(described.get(), allocator, key.c_str(), &text));
            return text ? taken(text) : std::string();
        });
        size_t count = 0;
        check(api->SessionGetOutputCount(session.get(), &count));
        for (size_t i = 0; i < count; ++i) {
            char* name = nullptr;
            check(api->SessionGetOutputName(session.get(), i, allocator, &name));
            names.push_back(taken(name));
        }
    }

    aurevoir::Outputs infer(const uint8_t* images, size_t count) override {
        const int64_t shape[] = {int64_t(count), int64_t(about.height), int64_t(about.width), int64_t(about.channels)};
        const auto input = made<OrtValue>(api->ReleaseValue, [&](auto** to) {
            return api->CreateTensorWithDataAsOrtValue(memory.get(), const_cast<uint8_t*>(images),
                                                       count * about.image_size(), shape, 4,
                                                       ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, to);
        });
        const OrtValue* inputs[] = {input.get()};
        const char* input_names[] = {"images"};
        std::vector<const char*> wanted;
        for (const auto& name : names) wanted.push_back(name.c_str());
        std::vector<OrtValue*> values(names.size());
        check(api->Run(session.get(), nullptr, input_names, inputs, 1, wanted.data(), wanted.size(), values.data()));
        aurevoir::Outputs outputs;
        for (size_t i = 0; i < names.size(); ++i)
            outputs[names[i]] = copied(Owned<OrtValue>(values[i], api->ReleaseValue));
        return outputs;
    }

private:
    std::string taken(char* text) {
        const std::string copy = text;
        check(api->AllocatorFree(allocator, text));
        return copy;
    }

    static aurevoir::Output copied(const Owned<OrtValue>& value) {
        const auto info = made<OrtTensorTypeAndShapeInfo>(api->ReleaseTensorTypeAndShapeInfo, [&](auto** to) {
            return api->GetTensorTypeAndShape(value.get(), to);
        });
        size_t rank = 0, elements = 0;
        ONNXTensorElementDataType type;
        check(api->GetDimensionsCount(info.get(), &rank));
        std::vector<int64_t> shape(rank);
        check(api->GetDimensions(info.get(), shape.data(), rank));
        check(api->GetTensorShapeElementCount(info.get(), &elements));
        check(api->GetTensorElementType(info.get(), &type));
        void* data = nullptr;
        check(api->GetTensorMutableData(value.get(), &data));
        const auto* bytes = static_cast<const uint8_t*>(data);
        return {{shape.begin(), shape.end()}, {bytes, bytes + elements * element_size(type)}};
    }

    Owned<OrtEnv> environment;
    Owned<OrtSessionOptions> options;
    Owned<OrtSession> session;
    Owned<OrtMemoryInfo> memory;
    OrtAllocator* allocator = nullptr;
    std::vector<std::string> names;
};

}  // namespace

int main(int argc, char** argv) {
    return aurevoir::classify(argc, argv, [](const auto& options) {
        if (!options.cached || !options.cache.empty()) aurevoir::fail("--cache is of OpenVINO alone");
        api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
        if (!api) aurevoir::fail("the ONNX Runtime library is older than its header");
        return std::make_unique<OnnxRuntimeEngine>(options.model);
    });
}
