// Draws series of a saved model from C++, without Python: the same bits as Python's.
//
//   cmake -S . -B build/c -DTSGEN_PYTHON=OFF && cmake --build build/c
//   cmake --install build/c --prefix ~/tsgen
//   cmake -S examples/embed -B build/embed -DCMAKE_PREFIX_PATH=~/tsgen && cmake --build build/embed
//   build/embed/embed tsgen/bundled/cbf 3 7 funnel > series.f32
//
// With "cuda" as the last word, after a number of threads, on the first GPU.
//
// Writes the series drawn, their token ids (int64), and the series of those ids, as raw numbers:
// numpy.fromfile reads them. What it does is said on stderr.
#include <tsgen.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace {

// Ends with the library's own words if a call has failed.
void check(tsgen_status status) {
  if (status == TSGEN_OK) return;
  std::fprintf(stderr, "error %d: %s\n", (int)status, tsgen_last_error());
  std::exit(1);
}

template <typename T>
void write(const std::vector<T>& numbers) {
  if (std::fwrite(numbers.data(), sizeof(T), numbers.size(), stdout) != numbers.size())
    std::exit(1);
}

struct Free {
  void operator()(tsgen_model* model) const { tsgen_model_free(model); }
};

}  // namespace

int main(int n_words, char** words) {
  const std::string device = n_words > 6 ? words[6] : "cpu";
  if (n_words < 4 || n_words > 7 || (device != "cpu" && device != "cuda")) {
    std::fprintf(stderr, "usage: %s FOLDER N SEED [CLASS [THREADS [cpu | cuda]]]\n", words[0]);
    return 2;
  }
  const int64_t n = std::atoll(words[2]);
  const uint64_t seed = std::strtoull(words[3], nullptr, 10);
  const std::string name = n_words > 4 ? words[4] : "";
  const int32_t n_threads = n_words > 5 ? std::atoi(words[5]) : 0;
  const bool on_gpu = device == "cuda";

  tsgen_model* loaded;
  check(tsgen_model_load(words[1], on_gpu ? TSGEN_CUDA : TSGEN_CPU, n_threads, &loaded));
  const std::unique_ptr<tsgen_model, Free> model(loaded);
  tsgen_info info{};
  info.size = sizeof info;
  check(tsgen_model_info(model.get(), &info));
  std::fprintf(stderr,
               "tsgen %s on %s: %" PRId64 " x %" PRId64 ", %" PRId64 " classes, tokens: %" PRId64
               " + %" PRId64 "\n",
               tsgen_version(), on_gpu ? "cuda" : tsgen_instruction_set(), info.n_channels,
               info.length, info.n_classes, info.n_tokens[0], info.n_tokens[1]);

  std::vector<int64_t> class_id(n, -1);
  if (!name.empty()) {
    int64_t id;
    check(tsgen_class_id(model.get(), name.c_str(), &id));
    class_id.assign(n, id);
  }
  std::vector<float> series(n * info.n_channels * info.length), again(series.size());
  check(tsgen_generate(model.get(), n, nullptr, class_id.data(), seed, nullptr, n_threads,
                       series.data()));
  write(series);

  std::vector<int64_t> ids(n * (info.n_tokens[0] + info.n_tokens[1]));
  check(tsgen_encode(model.get(), n, series.data(), n_threads, ids.data()));
  check(tsgen_decode(model.get(), n, ids.data(), n_threads, again.data()));
  write(ids), write(again);
}
