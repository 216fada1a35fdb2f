// The tokenizer's ops in the C ABI, see tsgen_ops.h.
#include "c_api/call.h"
#include "ops.h"
#include "tsgen_ops.h"

namespace {

using namespace tsgen::c_api;
using tsgen::bad_value;
namespace cpu = tsgen::cpu;

void check_transform(const float* planes, const float* window, const float* x, int64_t N, int64_t L,
                     int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  check_sizes({{"N", N, 0}, {"L", L, 1}, {"W", W, 1}});
  check_sizes({{"N", N, 0}, {"F", F, 1}, {"T", T, 1}, {"W", W, 1}});
  check_range("hop", hop, 1, 1 << 24);
  check_range("first", first, 0, W / 2), check_range("F", F, 1, W / 2 + 1 - first);
  check_array("planes", planes, N * F * T), check_array("x", x, N * L);
  check_array("window", window, W);
}

void check_stft(const float* planes, const float* window, const float* x, int64_t N, int64_t L,
                int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  check_transform(planes, window, x, N, L, W, hop, first, F, T);
  check_range("L", L, W / 2 + 1, INT64_C(1) << 56);
  const int64_t frames = 1 + (L + 2 * (W / 2) - W) / hop;
  check_range("T", T, frames, frames);
}

void check_istft(const float* planes, const float* window, const float* x, int64_t N, int64_t L,
                 int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  check_transform(planes, window, x, N, L, W, hop, first, F, T);
  check_sizes({{"hop", hop, 1}, {"T", T, 1}});
  check_range("L", L, 1, (T - 1) * hop + (W + 1) / 2);
}

struct Conv {
  const float *x, *a, *gain, *shift, *taps, *tap_bias, *weight, *bias;
  int64_t B, C, H, W, O, kernel_rows, kind;

  int64_t n_out() const {
    const int64_t width = kind == TSGEN_TAPS_HALVE ? W / 2 : kind == TSGEN_TAPS_TWICE ? 2 * W : W;
    return B * O * H * width;
  }

  void check() const {
    check_range("kind", kind, TSGEN_TAPS_NONE, TSGEN_TAPS_TWICE);
    check_sizes({{"B", B, 0}, {"C", C, 1}, {"H", H, 0}, {"W", W, 0}, {"O", O, 1}});
    if (kernel_rows != 1 && kernel_rows != 3)
      throw bad_value("kernel_rows", "1 or 3", std::to_string(kernel_rows));
    check_array("x", x, B * C * H * W), check_given("weight", weight), check_given("bias", bias);
    check_together("gain, shift", {gain, shift});
    if (gain) check_given("a", a);
    if (kind != TSGEN_TAPS_NONE) {
      check_given("taps", taps), check_given("tap_bias", tap_bias);
    } else if (taps || tap_bias) {
      throw bad_value("taps, tap_bias", "none for TSGEN_TAPS_NONE", "some of them");
    }
  }
};

}  // namespace

tsgen_status tsgen_stft(const float* x, const float* window, float* planes, int64_t N, int64_t L,
                        int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
                        int32_t n_threads) {
  return call([&] {
    check_stft(planes, window, x, N, L, W, hop, first, F, T);
    cpu::stft(x, window, planes, N, L, W, hop, first, F, T, threads(n_threads));
  });
}

tsgen_status tsgen_stft_backward(const float* grad_planes, const float* window, float* grad_x,
                                 int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first,
                                 int64_t F, int64_t T, int32_t n_threads) {
  return call([&] {
    check_stft(grad_planes, window, grad_x, N, L, W, hop, first, F, T);
    cpu::stft_backward(grad_planes, window, grad_x, N, L, W, hop, first, F, T, threads(n_threads));
  });
}

tsgen_status tsgen_istft(const float* planes, const float* window, float* x, int64_t N, int64_t L,
                         int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
                         int32_t n_threads) {
  return call([&] {
    check_istft(planes, window, x, N, L, W, hop, first, F, T);
    cpu::istft(planes, window, x, N, L, W, hop, first, F, T, threads(n_threads));
  });
}

tsgen_status tsgen_istft_backward(const float* grad_x, const float* window, float* grad_planes,
                                  int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first,
                                  int64_t F, int64_t T, int32_t n_threads) {
  return call([&] {
    check_istft(grad_planes, window, grad_x, N, L, W, hop, first, F, T);
    cpu::istft_backward(grad_x, window, grad_planes, N, L, W, hop, first, F, T, threads(n_threads));
  });
}

tsgen_status tsgen_nearest_code(const float* x, const float* codes, int64_t* ids, float* distance,
                                int64_t* counts, float* sums, int64_t N, int64_t K, int64_t D,
                                int32_t n_threads) {
  return call([&] {
    check_sizes({{"N", N, 0}, {"K", K, 1}, {"D", D, 1}});
    check_range("K", K, 1, INT32_MAX);
    check_array("x", x, N), check_array("ids", ids, N), check_array("distance", distance, N);
    check_given("codes", codes), check_together("counts, sums", {counts, sums});
    cpu::nearest_code(x, codes, ids, distance, counts, sums, N, K, D, threads(n_threads));
  });
}

tsgen_status tsgen_snake(const float* x, const float* a, const float* gain, const float* shift,
                         float* out, int64_t B, int64_t C, int64_t S, int32_t n_threads) {
  return call([&] {
    check_sizes({{"B", B, 0}, {"C", C, 1}, {"S", S, 0}});
    check_array("x", x, B * S), check_given("a", a), check_array("out", out, B * S);
    check_together("gain, shift", {gain, shift});
    cpu::snake(x, a, gain, shift, out, B, C, S, threads(n_threads));
  });
}

tsgen_status tsgen_snake_backward(const float* grad_out, const float* x, const float* a,
                                  const float* gain, const float* shift, float* grad_x,
                                  float* grad_a, float* grad_gain, float* grad_shift, int64_t B,
                                  int64_t C, int64_t S, int32_t n_threads) {
  return call([&] {
    check_sizes({{"B", B, 0}, {"C", C, 1}, {"S", S, 0}});
    check_array("grad_out", grad_out, B * S), check_array("x", x, B * S);
    check_array("grad_x", grad_x, B * S), check_given("a", a), check_given("grad_a", grad_a);
    check_together("gain, shift, grad_gain, grad_shift", {gain, shift, grad_gain, grad_shift});
    cpu::snake_backward(grad_out, x, a, gain, shift, grad_x, grad_a, grad_gain, grad_shift, B, C, S,
                        threads(n_threads));
  });
}

tsgen_status tsgen_separable_conv(const float* x, const float* a, const float* gain,
                                  const float* shift, const float* taps, const float* tap_bias,
                                  const float* weight, const float* bias, float* y, float* mean,
                                  float* var, int64_t B, int64_t C, int64_t H, int64_t W, int64_t O,
                                  int64_t kernel_rows, tsgen_taps kind, int32_t n_threads) {
  return call([&] {
    const Conv conv{x, a, gain, shift, taps, tap_bias,    weight, bias,
                    B, C, H,    W,     O,    kernel_rows, kind};
    conv.check();
    check_array("y", y, conv.n_out()), check_together("mean, var", {mean, var});
    cpu::separable_conv(x, a, gain, shift, taps, tap_bias, weight, bias, y, mean, var, B, C, H, W,
                        O, kernel_rows, kind, threads(n_threads));
  });
}

tsgen_status tsgen_separable_conv_backward(
    const float* grad_y, const float* grad_mean, const float* grad_var, const float* y,
    const float* mean, const float* x, const float* a, const float* gain, const float* shift,
    const float* taps, const float* tap_bias, const float* weight, const float* bias, float* grad_x,
    float* grad_a, float* grad_gain, float* grad_shift, float* grad_taps, float* grad_tap_bias,
    float* grad_weight, float* grad_bias, int64_t B, int64_t C, int64_t H, int64_t W, int64_t O,
    int64_t kernel_rows, tsgen_taps kind, int32_t n_threads) {
  return call([&] {
    const Conv conv{x, a, gain, shift, taps, tap_bias,    weight, bias,
                    B, C, H,    W,     O,    kernel_rows, kind};
    conv.check();
    check_array("grad_y", grad_y, conv.n_out()), check_array("grad_x", grad_x, B * C * H * W);
    check_together("grad_mean, grad_var, mean", {grad_mean, grad_var, mean});
    if (mean) check_array("y", y, conv.n_out());
    check_given("grad_weight", grad_weight), check_given("grad_bias", grad_bias);
    check_together("a, grad_a", {a, grad_a});
    check_together("gain, grad_gain, grad_shift", {gain, grad_gain, grad_shift});
    check_together("taps, grad_taps, grad_tap_bias", {taps, grad_taps, grad_tap_bias});
    cpu::separable_conv_backward(grad_y, grad_mean, grad_var, y, mean, x, a, gain, shift, taps,
                                 tap_bias, weight, bias, grad_x, grad_a, grad_gain, grad_shift,
                                 grad_taps, grad_tap_bias, grad_weight, grad_bias, B, C, H, W, O,
                                 kernel_rows, kind, threads(n_threads));
  });
}
