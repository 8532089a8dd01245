// What the tests ask of examples/cpp/aurevoir.hpp: `pixels HEIGHT WIDTH CHANNELS RESIZE FILE...` writes the pixels of
// images, `labels JSON` each text of a list with a zero behind, `object JSON` the members of an object likewise.
#include "aurevoir.hpp"

int main(int argc, char** argv) try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    if (words.at(0) == "pixels") {
        aurevoir::Metadata about;
        about.height = std::stoul(words.at(1)), about.width = std::stoul(words.at(2));
        about.channels = std::stoul(words.at(3)), about.resize = words.at(4);
        for (size_t i = 5; i < words.size(); ++i) {
            const auto image = aurevoir::load_image(words[i], about);
            std::fwrite(image.pixels.data(), 1, image.pixels.size(), stdout);
        }
    } else if (words.at(0) == "labels") {
        for (const auto& label : aurevoir::Json(words.at(1)).list())
            std::fwrite(label.c_str(), 1, label.size() + 1, stdout);
    } else {
        for (const auto& [name, value] : aurevoir::Json(words.at(1)).object())
            std::printf("%s=%s\n", name.c_str(), value.c_str());
    }
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
