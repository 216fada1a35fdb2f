// What stft, istft and their gradients share: the Fourier coefficients, laid out for simd/stft.h.
//
//   analysis    plane[g, t] = sum_n b[g, n] sample[t hop + n]      stft, and the gradient of istft
//   synthesis   sample[s] = sum_g,t b[g, s - t hop] plane[g, t]    istft, and the gradient of stft
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "machine/parallel.h"
#include "simd/stft.h"

namespace tsgen::cpu {

enum class Direction { analysis, synthesis };

class Fourier {
 public:
  // b[g, n] = window[n] * (cos or -sin)(2π f n / W), of the inverse transform if `inverse`.
  Fourier(const float* window, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
          Direction direction, bool inverse)
      : n_bins(F), direction(direction), first(first), inverse(inverse), window(window) {
    path.W = W, path.hop = hop, path.T = T;
    path.halo = (W - 1) / hop;
    path.n_phases = hop < W ? hop : W;
    path.stride = COLUMNS + path.halo + 2 * SLACK;
    path.window = W % 4 == 0 && W >= FOLDED ? window : nullptr;
    for (int64_t n = 0; n < W; ++n) {
      turn.push_back(2 * M_PI * (double)n / (double)W);
      tap_at.push_back(n % hop * path.stride + n / hop);
    }
    path.tap_at = tap_at.data();
    path.window ? mix_folded() : mix_frames();
    for (int64_t i = 0; i < path.n_mixes; ++i) link(i);
  }
  Fourier(const Fourier&) = delete;  // path points into it

  int64_t planes() const { return 2 * n_bins * path.T; }  // floats of one series
  int64_t samples() const { return (path.T + path.halo + SLACK) * path.hop; }  // and a rest
  int64_t scratch() const { return (path.W + path.n_phases) * path.stride; }
  int64_t work() const { return planes() * path.W; }  // of one series, for useful_threads

  // The imaginary parts of row 0 and row W / 2, which are always 0.
  void silence(float* to) const {
    for (int64_t f = first; f < first + n_bins; ++f)
      if (alone(f))
        for (int64_t t = 0; t < path.T; ++t) to[imaginary(f) * path.T + t] = 0;
  }

  Path path{};

 private:
  static constexpr int64_t FOLDED = 16;  // below, folding costs more than it saves

  struct Group {
    std::vector<float> coefficient;
    std::vector<int64_t> plane_at, tap_at;
  };

  bool alone(int64_t f) const { return f == 0 || 2 * f == path.W; }
  int64_t real(int64_t f) const { return f - first; }
  int64_t imaginary(int64_t f) const { return n_bins + f - first; }

  double cosine(int64_t f, int64_t n) const { return scale(f) * std::cos(turn[f * n % path.W]); }
  double sine(int64_t f, int64_t n) const { return scale(f) * -std::sin(turn[f * n % path.W]); }
  // a row stands for itself and its mirror image, but for row 0 and row W / 2
  double scale(int64_t f) const { return !inverse ? 1.0 : (alone(f) ? 1.0 : 2.0) / path.W; }

  // Where the rows of a tap lie: frames themselves before an analysis, else W rows of scratch.
  int64_t at(int64_t n) const {
    return direction == Direction::analysis && !path.window ? tap_at[n] : n * path.stride;
  }

  void mix_frames() {
    Group& group = groups[path.n_mixes++];
    for (int64_t n = 0; n < path.W; ++n) group.tap_at.push_back(at(n));
    const auto add = [&](int64_t plane, auto basis) {
      group.plane_at.push_back(plane * path.T);
      for (int64_t n = 0; n < path.W; ++n)
        group.coefficient.push_back((float)(basis(n) * window[n]));
    };
    for (int64_t f = first; f < first + n_bins; ++f) {
      add(real(f), [&](int64_t n) { return cosine(f, n); });
      if (!alone(f)) add(imaginary(f), [&](int64_t n) { return sine(f, n); });
    }
  }

  // See fold() in simd/stft.cpp for what lies where.
  void mix_folded() {
    const int64_t W = path.W, H = W / 2, Q = W / 4;
    for (int64_t parity = 0; parity < 2; ++parity)
      for (const bool is_sine : {false, true}) {
        Group& group = groups[path.n_mixes++];
        std::vector<int64_t> taps;
        for (int64_t n = is_sine ? 1 : 0; n < Q + (is_sine == (parity == 1)); ++n) {
          taps.push_back(n);
          group.tap_at.push_back(at(parity ? (is_sine ? W - n : H - n) : is_sine ? H + n : n));
        }
        for (int64_t f = first + (first + parity) % 2; f < first + n_bins; f += 2) {
          if (is_sine && alone(f)) continue;
          group.plane_at.push_back((is_sine ? imaginary(f) : real(f)) * path.T);
          for (const int64_t n : taps)
            group.coefficient.push_back((float)(is_sine ? sine(f, n) : cosine(f, n)));
        }
      }
  }

  // An analysis mixes taps to planes, a synthesis planes to taps.
  void link(int64_t i) {
    Group& g = groups[i];
    const int64_t n_planes = (int64_t)g.plane_at.size(), n_taps = (int64_t)g.tap_at.size();
    if (direction == Direction::analysis) {
      path.mix[i] = {g.coefficient.data(), g.tap_at.data(), g.plane_at.data(), n_taps, n_planes};
      return;
    }
    std::vector<float> transposed;
    for (int64_t n = 0; n < n_taps; ++n)
      for (int64_t p = 0; p < n_planes; ++p) transposed.push_back(g.coefficient[p * n_taps + n]);
    g.coefficient = std::move(transposed);
    path.mix[i] = {g.coefficient.data(), g.plane_at.data(), g.tap_at.data(), n_planes, n_taps};
  }

  int64_t n_bins;
  Direction direction;
  int64_t first;
  bool inverse;
  const float* window;
  std::vector<double> turn;
  std::vector<int64_t> tap_at;
  Group groups[4];
};

// work(series, samples, scratch) once for every series, with memory for each thread.
template <typename Work>
void for_each_series(const Fourier& fourier, int64_t n_series, int64_t n_threads,
                     const Work& work) {
  const int64_t at_once = 1 + 4096 / fourier.planes();  // series that a task should have at least
  const int64_t n_tasks = (n_series + at_once - 1) / at_once;
  n_threads = useful_threads(n_threads, n_series * fourier.work());
  const int64_t n_samples = fourier.samples(), each = n_samples + fourier.scratch();
  std::vector<float> memory(n_threads * each);
  parallel_for(n_tasks, n_threads, [&](int64_t task, int64_t thread) {
    float* const samples = memory.data() + thread * each;
    for (int64_t i = task * at_once; i < (task + 1) * at_once && i < n_series; ++i)
      work(i, samples, samples + n_samples);
  });
}

}  // namespace tsgen::cpu
