// Labels photographs by a plan exported with `aurevoir export --to plan`, on the GPU that it was built for. See
// docs/cpp.md. Compiled against the headers of TensorRT 10.0, 10.16 and 11.1, whose names TensorRT-RTX shares; NOT RUN,
// for want of a GPU with either library.
//
//     tensorrt_classify lite0-plan/model.plan photo.jpg ...
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include "aurevoir.hpp"

namespace {

void check(cudaError_t error) {
    if (error != cudaSuccess) aurevoir::fail(cudaGetErrorString(error));
}

void check(bool done, const std::string& what) {
    if (!done) aurevoir::fail("TensorRT cannot " + what);
}

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) std::cerr << message << "\n";
    }
};

// Memory of the GPU that grows.
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    ~Buffer() { cudaFree(memory); }

    void* of(size_t bytes) {
        if (bytes > size) {
            cudaFree(std::exchange(memory, nullptr));
            check(cudaMalloc(&memory, bytes));
            size = bytes;
        }
        return memory;
    }

private:
    void* memory = nullptr;
    size_t size = 0;
};

size_t element_size(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kUINT8: return 1;
        case nvinfer1::DataType::kFLOAT: return 4;
        case nvinfer1::DataType::kINT64: return 8;
        default: aurevoir::fail("an output has a type that engines do not have");
    }
}

class TensorRtEngine : public aurevoir::Engine {
public:
    explicit TensorRtEngine(const std::string& path) {
        const size_t slash = path.rfind('/');
        const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
        const std::string json = aurevoir::read_file(folder + "metadata.json");
        const auto known = aurevoir::Json(json).object();
        about = aurevoir::read_metadata([&](const std::string& key) {
            const auto found = known.find(key);
            return found == known.end() ? std::string() : found->second;
        });
        const std::string plan = aurevoir::read_file(path);
        runtime.reset(nvinfer1::createInferRuntime(logger));
        check(bool(runtime), "be loaded");
        engine.reset(runtime->deserializeCudaEngine(plan.data(), plan.size()));
        check(bool(engine), "load the plan: it is for one version of the library and one kind of GPU");
        context.reset(engine->createExecutionContext());
        check(bool(context), "make a context");
        check(cudaStreamCreate(&stream));
        most = size_t(engine->getProfileShape("images", 0, nvinfer1::OptProfileSelector::kMAX).d[0]);
    }

    ~TensorRtEngine() override {
        if (stream) cudaStreamDestroy(stream);
    }

    aurevoir::Outputs infer(const uint8_t* images, size_t count) override {
        aurevoir::Outputs outputs;
        for (size_t start = 0; start < count; start += most)
            run(images + start * about.image_size(), std::min(most, count - start), start, count, outputs);
        return outputs;
    }

private:
    void run(const uint8_t* images, size_t rows, size_t start, size_t count, aurevoir::Outputs& outputs) {
        const size_t bytes = rows * about.image_size();
        const auto height = int64_t(about.height), width = int64_t(about.width), channels = int64_t(about.channels);
        const nvinfer1::Dims4 shape(int64_t(rows), height, width, channels);
        check(context->setInputShape("images", shape), "take this batch");
        void* input = buffers["images"].of(bytes);
        check(cudaMemcpyAsync(input, images, bytes, cudaMemcpyHostToDevice, stream));
        check(context->setTensorAddress("images", input), "take the images");
        for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
            const char* name = engine->getIOTensorName(i);
            if (engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kOUTPUT) continue;
            const auto dims = context->getTensorShape(name);
            auto& output = outputs[name];
            output.shape.assign(dims.d, dims.d + dims.nbDims);
            size_t row = element_size(engine->getTensorDataType(name));
            for (size_t axis = 1; axis < output.shape.size(); ++axis) row *= output.shape[axis];
            output.shape[0] = count;
            output.bytes.resize(count * row);
            check(context->setTensorAddress(name, buffers[name].of(rows * row)), "give an output");
        }
        check(context->enqueueV3(stream), "run");
        for (auto& [name, output] : outputs) {
            const size_t row = output.bytes.size() / count;
            check(cudaMemcpyAsync(output.bytes.data() + start * row, buffers[name].of(rows * row), rows * row,
                                  cudaMemcpyDeviceToHost, stream));
        }
        check(cudaStreamSynchronize(stream));
    }

    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    cudaStream_t stream = nullptr;
    std::map<std::string, Buffer> buffers;
    size_t most = 1;
};

}  // namespace

int main(int argc, char** argv) {
    return aurevoir::classify(argc, argv, [](const auto& options) {
        if (!options.cached || !options.cache.empty()) aurevoir::fail("--cache is of OpenVINO alone");
        return std::make_unique<TensorRtEngine>(options.model);
    });
}
