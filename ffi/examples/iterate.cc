// Iterates over a dataset in C++17: handles are unique pointers, errors are exceptions.
//
//     c++ -std=c++17 iterate.cc $(pkg-config --cflags --libs strait) && ./a.out DIRECTORY

#include <strait.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>

namespace {

struct Free {
    void operator()(strait_dataset_builder *handle) const { strait_dataset_builder_free(handle); }
    void operator()(strait_dataset *handle) const { strait_dataset_free(handle); }
    void operator()(strait_loader_builder *handle) const { strait_loader_builder_free(handle); }
    void operator()(strait_loader *handle) const { strait_loader_free(handle); }
    void operator()(strait_batch *handle) const { strait_batch_free(handle); }
    void operator()(strait_device *handle) const { strait_device_free(handle); }
    void operator()(strait_error *handle) const { strait_error_free(handle); }
};

template <typename T> using Owned = std::unique_ptr<T, Free>;

void must(strait_status status, strait_error *error) {
    Owned<strait_error> owned(error);
    if (status != STRAIT_STATUS_OK) {
        throw std::runtime_error(strait_error_message(error));
    }
}

// Calls what makes a handle, and owns it.
template <typename T, typename Call> Owned<T> make(Call call) {
    T *handle = nullptr;
    strait_error *error = nullptr;
    // Not in one call with must: its arguments could be read before this has written the error.
    strait_status status = call(&handle, &error);
    must(status, error);
    return Owned<T>(handle);
}

template <typename Call> void call(Call call) {
    strait_error *error = nullptr;
    strait_status status = call(&error);
    must(status, error);
}

// Of the bytes of a sample's field; 0 if the sample lacks it.
unsigned long long sum_of(const strait_batch *batch, const char *field, std::size_t sample) {
    const std::uint8_t *data = nullptr;
    std::size_t len = 0;
    strait_error *error = nullptr;
    auto status = strait_batch_host_bytes(batch, field, sample, &data, &len, &error);
    if (status == STRAIT_STATUS_ABSENT) {
        return 0;
    }
    must(status, error);
    return std::accumulate(data, data + len, 0ULL);
}

// Raw files are taken for records of 4096 bytes; others tell their format themselves.
void iterate(const char *directory) {
    auto paths = make<strait_dataset_builder>(strait_dataset_builder_new);
    call([&](auto error) { return strait_dataset_builder_add_path(paths.get(), directory, error); });
    call([&](auto error) { return strait_dataset_builder_record_bytes(paths.get(), 4096, error); });
    auto dataset = make<strait_dataset>(
        [&](auto out, auto error) { return strait_dataset_builder_build(paths.get(), out, error); });

    auto host = make<strait_device>(strait_device_host);
    auto options = make<strait_loader_builder>(
        [&](auto out, auto error) { return strait_loader_builder_new(dataset.get(), out, error); });
    call([&](auto error) { return strait_loader_builder_device(options.get(), host.get(), error); });
    call([&](auto error) { return strait_loader_builder_batch_size(options.get(), 32, error); });
    auto loader = make<strait_loader>(
        [&](auto out, auto error) { return strait_loader_builder_build(options.get(), out, error); });

    unsigned long long samples = 0, sum = 0;
    call([&](auto error) { return strait_loader_begin(loader.get(), 0, error); });
    for (;;) {
        strait_batch *next = nullptr;
        strait_error *error = nullptr;
        auto status = strait_loader_next(loader.get(), -1, &next, &error);
        if (status == STRAIT_STATUS_END) {
            break;
        }
        must(status, error);
        Owned<strait_batch> batch(next);
        std::size_t count = 0, fields = 0;
        call([&](auto error_) { return strait_batch_len(batch.get(), &count, error_); });
        call([&](auto error_) { return strait_batch_fields(batch.get(), &fields, error_); });
        for (std::size_t field = 0; field < fields; field++) {
            const char *name = nullptr;
            call([&](auto error_) { return strait_batch_field_name(batch.get(), field, &name, nullptr, error_); });
            for (std::size_t i = 0; i < count; i++) {
                sum += sum_of(batch.get(), name, i);
            }
        }
        samples += count;
    }
    std::printf("%llu samples, sum %llu\n", samples, sum);
}

} // namespace

int main(int argc, char **argv) {
    try {
        iterate(argc > 1 ? argv[1] : ".");
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
