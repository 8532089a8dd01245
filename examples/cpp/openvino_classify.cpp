// Labels photographs by an engine exported with `aurevoir export --to openvino`. See docs/cpp.md.
//
//     openvino_classify lite0-openvino/model.xml photo.jpg ...
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include <unistd.h>

#include <filesystem>

#include "aurevoir.hpp"

namespace {

class OpenVinoEngine : public aurevoir::Engine {
public:
    explicit OpenVinoEngine(const aurevoir::Options& options) : model(core.read_model(options.model)) {
        const std::string cache = options.cached ? cache_folder(options) : "";
        if (!cache.empty()) core.set_property(ov::cache_dir(cache));
        about = aurevoir::read_metadata([this](const std::string& key) {
            const std::vector<std::string> place{"aurevoir", key};
            return model->has_rt_info(place) ? model->get_rt_info<std::string>(place) : std::string();
        });
        // The hint that Python gives: f32 for fp32 engines, else the narrower float where the processor has it.
        const auto known = core.get_property("CPU", ov::device::capabilities);
        const ov::element::Type wanted(about.openvino_precision);
        auto has = [&](const char* name) { return std::find(known.begin(), known.end(), name) != known.end(); };
        const bool native = (wanted == ov::element::bf16 && has("BF16")) || (wanted == ov::element::f16 && has("FP16"));
        precision = native ? wanted : ov::element::f32;
    }

    // One image runs on all cores; several in chunks of 4, concurrently, on about one stream a core.
    aurevoir::Outputs infer(const uint8_t* images, size_t count) override {
        auto& requests = count == 1 ? single : many;
        if (requests.empty()) requests = compiled(count == 1);
        const size_t chunk = std::min<size_t>(4, (count + requests.size() - 1) / requests.size());
        const size_t chunks = (count + chunk - 1) / chunk;
        aurevoir::Outputs outputs;
        try {
            for (size_t i = 0; i < chunks + requests.size(); ++i) {
                auto& request = requests[i % requests.size()];
                if (i >= requests.size() && i - requests.size() < chunks) {
                    request.wait();
                    collect(request, (i - requests.size()) * chunk, count, outputs);
                }
                const size_t first = i * chunk;
                if (i < chunks) start(request, images + first * about.image_size(), std::min(chunk, count - first));
            }
        } catch (...) {  // what still runs reads the images
            for (auto& request : requests) try { request.wait(); } catch (...) {}
            throw;
        }
        return outputs;
    }

private:
    // Where what is compiled once is kept for the next start of this version on this processor; empty for nowhere.
    static std::string cache_folder(const aurevoir::Options& options) {
        if (!options.cache.empty()) return options.cache;
        const char *caches = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
        std::filesystem::path folder = caches && *caches ? caches : home ? std::string(home) + "/.cache" : "";
        if (!folder.is_absolute()) return "";
        std::error_code error;
        std::filesystem::create_directories(folder /= "aurevoir-openvino", error);
        return error || access(folder.c_str(), W_OK) ? "" : folder.string();
    }

    std::vector<ov::InferRequest> compiled(bool one) {
        using Mode = ov::hint::PerformanceMode;
        auto network = core.compile_model(model, "CPU", ov::hint::inference_precision(precision),
                                          ov::hint::performance_mode(one ? Mode::LATENCY : Mode::THROUGHPUT));
        std::vector<ov::InferRequest> requests(one ? 1 : network.get_property(ov::optimal_number_of_infer_requests));
        for (auto& request : requests) request = network.create_infer_request();
        return requests;
    }

    void start(ov::InferRequest& request, const uint8_t* images, size_t rows) {
        const ov::Shape shape{rows, about.height, about.width, about.channels};
        request.set_input_tensor(ov::Tensor(ov::element::u8, shape, const_cast<uint8_t*>(images)));
        request.start_async();
    }

    void collect(ov::InferRequest& request, size_t start, size_t count, aurevoir::Outputs& outputs) {
        for (size_t i = 0; i < model->outputs().size(); ++i) {
            const ov::Tensor tensor = request.get_output_tensor(i);
            auto& output = outputs[model->output(i).get_any_name()];
            output.shape = tensor.get_shape();
            const size_t row = tensor.get_byte_size() / output.shape[0];
            output.shape[0] = count;
            output.bytes.resize(count * row);
            std::memcpy(output.bytes.data() + start * row, tensor.data(), tensor.get_byte_size());
        }
    }

    ov::Core core;
    std::shared_ptr<ov::Model> model;
    ov::element::Type precision;
    std::vector<ov::InferRequest> single, many;
};

}  // namespace

int main(int argc, char** argv) {
    return aurevoir::classify(argc, argv,
                              [](const auto& options) { return std::make_unique<OpenVinoEngine>(options); });
}
