// What the programs of this folder share: what an exported engine says of itself, images as it takes them, and a main
// function that prints labels. Needs C++17 and libjpeg or libjpeg-turbo.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <jpeglib.h>

#include <jerror.h>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace aurevoir {

using Clock = std::chrono::steady_clock;
inline const Clock::time_point STARTED = Clock::now();

inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] inline void fail(const std::string& why) { throw std::runtime_error(why); }

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(path + " cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// JSON as `aurevoir export` writes it: an object of texts, numbers and lists of texts.
class Json {
public:
    explicit Json(const std::string& text) : at(text.data()), end(text.data() + text.size()) {}

    // The members of an object; what is no text stays as it is written.
    std::map<std::string, std::string> object() {
        std::map<std::string, std::string> members;
        for (bool more = begin('{', '}'); more; more = next('}')) {
            std::string name = text();
            expect(':');
            members[name] = peek() == '"' ? text() : raw();
        }
        return members;
    }

    std::vector<std::string> list() {
        std::vector<std::string> texts;
        for (bool more = begin('[', ']'); more; more = next(']')) texts.push_back(text());
        return texts;
    }

private:
    char peek() {
        while (at != end && std::strchr(" \t\r\n", *at) && *at) ++at;
        return at == end ? '\0' : *at;
    }

    void expect(char wanted) {
        if (peek() != wanted || at == end) fail(std::string("JSON lacks a ") + wanted);
        ++at;
    }

    bool begin(char opening, char closing) {
        expect(opening);
        if (peek() != closing) return true;
        ++at;
        return false;
    }

    bool next(char closing) {
        if (peek() == ',') return ++at, true;
        expect(closing);
        return false;
    }

    std::string raw() {
        const char* from = at;
        for (int depth = 0; at != end && (depth || (*at != ',' && *at != '}')); ++at) {
            if (*at == '"') {
                text();
                --at;
            }
            depth += (*at == '[') - (*at == ']');
        }
        return {from, at};
    }

    std::string text() {
        std::string found;
        for (expect('"'); at != end && *at != '"'; ++at) {
            if (*at != '\\') {
                found += *at;
                continue;
            }
            if (++at == end) fail("JSON ends within an escape");
            const char* escaped = std::strchr("b\bf\fn\nr\rt\t", *at);
            if (*at == 'u') append(found, code());
            else found += escaped && *at >= 'a' ? escaped[1] : *at;
        }
        expect('"');
        return found;
    }

    unsigned hex() {
        if (end - at < 5) fail("JSON ends within an escape");
        unsigned value = std::stoul(std::string(at + 1, at + 5), nullptr, 16);
        at += 4;
        return value;
    }

    unsigned code() {
        unsigned high = hex();
        if (high < 0xd800 || high > 0xdbff || end - at < 7 || at[1] != '\\' || at[2] != 'u') return high;
        at += 2;
        return 0x10000 + ((high - 0xd800) << 10) + (hex() - 0xdc00);
    }

    static void append(std::string& text, unsigned code) {
        if (code >= 0xdc80 && code <= 0xdcff) {
            text += char(code - 0xdc00);  // a byte of a class folder's name that is not UTF-8
        } else if (code < 0x80) {
            text += char(code);
        } else {
            const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
            text += char((0xff00 >> (more + 1) & 0xff) | code >> 6 * more);
            for (int left = more - 1; left >= 0; --left) text += char(0x80 | (code >> 6 * left & 0x3f));
        }
    }

    const char *at, *end;
};

// What an exported engine says of itself; docs/formats.md has all keys.
struct Metadata {
    std::vector<std::string> labels;  // empty for an engine of features
    size_t height = 0, width = 0, channels = 0;
    std::string resize, openvino_precision;
    int weight_levels = 0;

    size_t image_size() const { return height * width * channels; }
};

// Read metadata by a function from a key to its text, empty where there is none.
inline Metadata read_metadata(const std::function<std::string(const std::string&)>& find) {
    if (find("schema") != "aurevoir-export/1")
        fail("the model has no metadata of schema aurevoir-export/1; write it with `aurevoir export`");
    Metadata found;
    found.labels = Json(find("labels")).list();
    found.height = std::stoul(find("height"));
    found.width = std::stoul(find("width"));
    found.channels = std::stoul(find("channels"));
    found.resize = find("resize");
    found.openvino_precision = find("openvino_precision");
    const std::string levels = find("weight_levels");
    found.weight_levels = levels.empty() ? 0 : std::stoi(levels);
    return found;
}

// Whether the processor sums products of bytes in 32 bits. Without (VNNI), weights beyond 63 overflow on x86.
inline bool has_int8_dot_product() {
#if defined(__x86_64__) || defined(__i386__)
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if (ecx & 1u << 11) return true;
    return eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax & 1u << 4;
#else
    return true;
#endif
}

struct Image {
    size_t width = 0, height = 0, channels = 3;
    std::vector<uint8_t> pixels;

    Image() = default;
    Image(size_t width, size_t height, size_t channels)
        : width(width), height(height), channels(channels), pixels(width * height * channels) {}

    uint8_t* at(size_t x, size_t y) { return pixels.data() + (y * width + x) * channels; }
    const uint8_t* at(size_t x, size_t y) const { return pixels.data() + (y * width + x) * channels; }
};

struct Decoder {
    jpeg_decompress_struct info{};
    jpeg_error_mgr errors{};
    std::jmp_buf back;
    char why[JMSG_LENGTH_MAX] = "";

    ~Decoder() { jpeg_destroy_decompress(&info); }

    static void give_up(j_common_ptr info) {
        auto* decoder = static_cast<Decoder*>(info->client_data);
        info->err->format_message(info, decoder->why);
        std::longjmp(decoder->back, 1);
    }

    static void warn(j_common_ptr info, int level) {
        if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) give_up(info);  // truncated, which Pillow refuses too
    }
};

// The orientation in Exif data, 1 to 8, where 1 is upright; 0 where the data are no Exif.
inline int orientation(const uint8_t* data, size_t size) {
    if (size < 14 || std::memcmp(data, "Exif\0", 6)) return 0;
    data += 6, size -= 6;
    const bool little = data[0] == 'I';
    auto number = [&](size_t at, size_t bytes) {
        size_t value = 0;
        for (size_t i = 0; i < bytes && at + bytes <= size; ++i)
            value |= size_t(data[at + i]) << 8 * (little ? i : bytes - 1 - i);
        return value;
    };
    const size_t directory = number(4, 4), entries = number(directory, 2);
    for (size_t i = 0, at = directory + 2; i < entries && at + 12 <= size; ++i, at += 12)
        if (number(at, 2) == 0x112) {
            const size_t value = number(at + 8, number(at + 2, 2) == 4 ? 4 : 2);
            return value >= 1 && value <= 8 ? int(value) : 1;
        }
    return 1;
}

// Decode a JPEG at the smallest of its own scales with at least the given size, as Pillow's draft does. No objects with
// destructors live here, as errors leave by longjmp.
inline bool decode(Decoder& decoder, const std::string& file, size_t width, size_t height, Image& image, int& turned) {
    auto& info = decoder.info;
    info.err = jpeg_std_error(&decoder.errors);
    info.client_data = &decoder;
    decoder.errors.error_exit = Decoder::give_up;
    decoder.errors.emit_message = Decoder::warn;
    if (setjmp(decoder.back)) return false;
    jpeg_create_decompress(&info);
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_read_header(&info, TRUE);
    if (size_t(info.image_width) * info.image_height > 178'956'970) {
        std::strcpy(decoder.why, "more than 178,956,970 pixels");
        return false;
    }
    const size_t scale = std::min(info.image_width / width, info.image_height / height);
    info.scale_num = 1;
    info.scale_denom = scale >= 8 ? 8 : scale >= 4 ? 4 : scale >= 2 ? 2 : 1;
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    image.width = info.output_width, image.height = info.output_height, image.channels = 3;
    image.pixels.resize(image.width * image.height * 3);
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = image.at(0, info.output_scanline);
        jpeg_read_scanlines(&info, &row, 1);
    }
    for (auto* marker = info.marker_list; marker && turned == 0; marker = marker->next)
        turned = orientation(marker->data, marker->data_length);
    jpeg_finish_decompress(&info);
    return true;
}

inline Image upright(const Image& image, int turned) {
    const bool swapped = turned >= 5;
    const bool mirrored = turned == 2 || turned == 3 || turned == 7 || turned == 8;
    const bool flipped = turned == 3 || turned == 4 || turned == 6 || turned == 7;
    Image result(swapped ? image.height : image.width, swapped ? image.width : image.height, image.channels);
    for (size_t y = 0; y < result.height; ++y)
        for (size_t x = 0; x < result.width; ++x) {
            const size_t column = swapped ? y : x, row = swapped ? x : y;
            std::copy_n(image.at(mirrored ? image.width - 1 - column : column,
                                 flipped ? image.height - 1 - row : row), image.channels, result.at(x, y));
        }
    return result;
}

inline Image grayscale(const Image& image) {
    Image result(image.width, image.height, 1);
    for (size_t i = 0; i < result.pixels.size(); ++i) {
        const uint8_t* rgb = image.pixels.data() + 3 * i;
        result.pixels[i] = uint8_t((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
    }
    return result;
}

// The means of blocks of pixels, in Pillow's rounding; for images more than 6 times as large as wanted.
inline Image reduced(const Image& image, size_t by_x, size_t by_y) {
    Image result((image.width + by_x - 1) / by_x, (image.height + by_y - 1) / by_y, image.channels);
    for (size_t y = 0; y < result.height; ++y)
        for (size_t x = 0; x < result.width; ++x) {
            const size_t right = std::min(image.width, (x + 1) * by_x), below = std::min(image.height, (y + 1) * by_y);
            const uint32_t count = uint32_t((right - x * by_x) * (below - y * by_y));
            const auto factor = uint32_t(4294967296.0f / float(256 * count));
            for (size_t c = 0; c < image.channels; ++c) {
                uint32_t sum = count / 2;
                for (size_t row = y * by_y; row < below; ++row)
                    for (size_t column = x * by_x; column < right; ++column) sum += image.at(column, row)[c];
                result.at(x, y)[c] = uint8_t((sum * factor) >> 24);
            }
        }
    return result;
}

struct Taps {
    size_t first;
    std::vector<int32_t> weights;
};

// Which pixels of one axis each output reads, by how much in units of 2^-22: a triangle as wide as the scale.
inline std::vector<Taps> triangles(size_t length, float low, float high, size_t outputs) {
    const double scale = double(high - low) / double(outputs), width = std::max(scale, 1.0);
    std::vector<Taps> taps(outputs);
    for (size_t i = 0; i < outputs; ++i) {
        const double centre = low + (double(i) + 0.5) * scale;
        const auto first = size_t(std::max(0.0, centre - width + 0.5));
        const auto last = std::min(length, size_t(centre + width + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (size_t x = first; x < last; ++x) {
            weights.push_back(std::max(0.0, 1 - std::abs((double(x) - centre + 0.5) * (1 / width))));
            sum += weights.back();
        }
        taps[i].first = first;
        for (double weight : weights)
            taps[i].weights.push_back(int32_t(0.5 + (sum != 0 ? weight / sum : weight) * (1 << 22)));
    }
    return taps;
}

struct Box {
    float left, top, right, bottom;
};

inline Image with_width(const Image& image, const Box& box, size_t width) {
    if (width == image.width && box.left == 0 && box.right == float(width)) return image;
    const auto taps = triangles(image.width, box.left, box.right, width);
    Image result(width, image.height, image.channels);
    for (size_t y = 0; y < image.height; ++y)
        for (size_t x = 0; x < width; ++x)
            for (size_t c = 0; c < image.channels; ++c) {
                int32_t sum = 1 << 21;
                const uint8_t* from = image.at(taps[x].first, y) + c;
                for (int32_t weight : taps[x].weights) sum += weight * *from, from += image.channels;
                result.at(x, y)[c] = uint8_t(sum >> 22);
            }
    return result;
}

inline Image with_height(const Image& image, const Box& box, size_t height) {
    if (height == image.height && box.top == 0 && box.bottom == float(height)) return image;
    const auto taps = triangles(image.height, box.top, box.bottom, height);
    Image result(image.width, height, image.channels);
    const size_t line = image.width * image.channels;
    for (size_t y = 0; y < height; ++y)
        for (size_t i = 0; i < line; ++i) {
            int32_t sum = 1 << 21;
            const uint8_t* from = image.at(0, taps[y].first) + i;
            for (int32_t weight : taps[y].weights) sum += weight * *from, from += line;
            result.pixels[y * line + i] = uint8_t(sum >> 22);
        }
    return result;
}

// Resize a box of an image as Pillow's antialiased BILINEAR does: one axis, then the other, each rounded to 8 bits.
// Which is first is Pillow 13's choice; earlier ones always began with the width, and differ by a level where it
// is not.
inline Image resized(const Image& image, const Box& box, size_t width, size_t height) {
    const auto less = [](size_t before, size_t after) { return int64_t(before) - int64_t(after); };
    const bool tall = less(image.height, height) > std::max<int64_t>(0, 2 * less(image.width, width));
    return tall ? with_width(with_height(image, box, height), box, width)
                : with_height(with_width(image, box, width), box, height);
}

// An image file as the engine takes it, with the pixels that Python's decoding gives.
inline Image load_image(const std::string& path, const Metadata& about) {
    if (about.channels != 1 && about.channels != 3)
        fail("the engine takes images of " + std::to_string(about.channels) + " channels; give them by --raw");
    const std::string file = read_file(path);
    Image image;
    int turned = 0;
    {
        Decoder decoder;
        if (!decode(decoder, file, 2 * about.width, 2 * about.height, image, turned)) fail(path + ": " + decoder.why);
    }
    if (turned > 1) image = upright(image, turned);
    if (about.channels == 1) image = grayscale(image);
    double left = 0, top = 0, width = double(image.width), height = double(image.height);
    if (about.resize == "crop") {
        const double wanted = double(about.width) / double(about.height), found = width / height;
        if (found > wanted) width = wanted * height;
        if (found < wanted) height = width / wanted;
        left = (double(image.width) - width) * 0.5, top = (double(image.height) - height) * 0.5;
    } else {
        const size_t by_x = std::max<size_t>(1, size_t(width / double(about.width) / 3));
        const size_t by_y = std::max<size_t>(1, size_t(height / double(about.height) / 3));
        if (by_x > 1 || by_y > 1) image = reduced(image, by_x, by_y);
        width /= double(by_x), height /= double(by_y);
    }
    const Box box{float(left), float(top), float(left + width), float(top + height)};
    return resized(image, box, about.width, about.height);
}

// One output of an engine for a batch.
struct Output {
    std::vector<size_t> shape;
    std::vector<uint8_t> bytes;

    template <class T>
    const T* data() const { return reinterpret_cast<const T*>(bytes.data()); }
};
using Outputs = std::map<std::string, Output>;

class Engine {
public:
    virtual ~Engine() = default;
    // Compute the outputs of `count` images, uint8 (count, height, width, channels).
    virtual Outputs infer(const uint8_t* images, size_t count) = 0;

    Metadata about;
};

inline uint32_t crc32(const std::vector<uint8_t>& bytes) {
    uint32_t crc = ~0u;
    for (uint8_t byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

// A name without control characters, which could command a terminal.
inline std::string printable(std::string name) {
    for (char& c : name)
        if ((c >= 0 && c < ' ') || c == 127) c = '?';
    return name;
}

// One line an image and label: name, label, probability; with `scores` those of all classes behind.
inline void print_labels(const std::vector<std::string>& names, const Metadata& about, const Outputs& outputs,
                         bool scores) {
    const auto& label = outputs.at("label");
    const size_t classes = about.labels.size();
    const bool several = label.shape.size() == 2;  // 0 or 1 for each class
    for (const char* name : {"scores", "probabilities"})
        if (!outputs.count(name)) fail(std::string("the model was exported without ") + name);
    const auto* values = outputs.at("scores").data<float>();
    const auto* probabilities = outputs.at("probabilities").data<float>();
    auto line = [&](size_t row, size_t c) {
        const std::string name = printable(names[row]), label = printable(about.labels.at(c));
        std::printf("%s\t%s\t%.9g", name.c_str(), label.c_str(), probabilities[row * classes + c]);
        for (size_t i = 0; scores && i < classes; ++i) std::printf("\t%.9g", values[row * classes + i]);
        std::printf("\n");
    };
    for (size_t row = 0; row < names.size(); ++row)
        if (!several)
            line(row, size_t(label.data<int64_t>()[row]));
        else
            for (size_t c = 0; c < classes; ++c)
                if (label.data<int64_t>()[row * classes + c]) line(row, c);
}

inline void print_outputs(const Outputs& outputs) {
    for (const auto& [name, output] : outputs) {
        std::printf("%s (", name.c_str());
        for (size_t i = 0; i < output.shape.size(); ++i) std::printf(i ? ", %zu" : "%zu", output.shape[i]);
        std::printf(") crc32 %08x\n", crc32(output.bytes));
    }
}

// Images a second in batches of 16, after a first one that is not counted.
inline void benchmark(Engine& engine, double seconds) {
    const size_t batch = 16;
    std::vector<uint8_t> noise(batch * engine.about.image_size());
    std::mt19937 random(0);
    for (auto& value : noise) value = uint8_t(random());
    engine.infer(noise.data(), batch);
    size_t batches = 0;
    const auto start = Clock::now();
    do engine.infer(noise.data(), batch), ++batches;
    while (seconds_since(start) < seconds);
    const double speed = double(batches * batch) / seconds_since(start);
    std::printf("%.1f images/s in %zu batches of %zu\n", speed, batches, batch);
}

struct Options {
    std::string model, raw, cache;
    std::vector<std::string> images;
    bool scores = false, cached = true;
    double seconds = 0;
};

inline Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        auto value = [&] { return i + 1 < argc ? argv[++i] : (fail(word + " needs a value"), nullptr); };
        if (word == "--raw") options.raw = value();
        else if (word == "--cache") options.cache = value();
        else if (word == "--no-cache") options.cached = false;
        else if (word == "--scores") options.scores = true;
        else if (word == "--benchmark") options.seconds = std::strtod(value(), nullptr);
        else if (word.rfind("--", 0) == 0) fail(word + " is not an option");
        else if (options.model.empty()) options.model = word;
        else options.images.push_back(word);
    }
    if (options.model.empty())
        fail("usage: MODEL [IMAGE.jpg ...] [--raw FILE of uint8 pixels] [--scores] [--benchmark SECONDS] "
             "[--cache FOLDER or --no-cache, of OpenVINO]");
    return options;
}

// Load a model with `open`, label images, and measure; returns the exit code.
inline int classify(int argc, char** argv, const std::function<std::unique_ptr<Engine>(const Options&)>& open) try {
    const Options options = parse(argc, argv);
    std::vector<uint8_t> pixels;
    const auto engine = open(options);
    const Metadata& about = engine->about;
    if (about.weight_levels > 63 && !has_int8_dot_product())
        std::cerr << "note: this processor has no VNNI, and the engine's int8 weights need it: sums may saturate\n";
    std::vector<std::string> names;
    int code = 0;
    for (const auto& path : options.images) try {
        const Image image = load_image(path, about);
        pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
        names.push_back(path);
    } catch (const std::exception& error) {
        std::cerr << "skipped: " << error.what() << "\n";
        code = 1;
    }
    if (!options.raw.empty()) {
        const std::string raw = read_file(options.raw);
        if (raw.empty() || raw.size() % about.image_size())
            fail(options.raw + " does not hold whole images of " + std::to_string(about.image_size()) + " bytes");
        for (size_t i = 0; i < raw.size() / about.image_size(); ++i)
            names.push_back(options.raw + "#" + std::to_string(i));
        pixels.insert(pixels.end(), raw.begin(), raw.end());
    }
    if (!names.empty()) {
        const Outputs outputs = engine->infer(pixels.data(), names.size());
        if (options.seconds > 0) std::printf("first label %.0f ms after the start\n", 1000 * seconds_since(STARTED));
        if (outputs.count("label")) print_labels(names, about, outputs, options.scores);
        else print_outputs(outputs);
    }
    if (options.seconds > 0) benchmark(*engine, options.seconds);
    return code;
} catch (const std::exception& error) {
    std::string why = error.what();
    std::replace(why.begin(), why.end(), '\n', ' ');
    std::cerr << "error: " << why << "\n";
    return 1;
}

}  // namespace aurevoir
