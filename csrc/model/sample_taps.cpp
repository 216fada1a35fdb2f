// The decoder's end: inverse transform and linear interpolation as one sum over frames.
#include <algorithm>
#include <cmath>

#include "model/fold.h"

namespace tsgen {
namespace {

// What the inverse transform divides by at each of n_fine samples, inverted.
Doubles inverse_weights(const Doubles& window, int64_t hop, int64_t n_frames, int64_t n_fine) {
  const int64_t W = (int64_t)window.size(), half = W / 2;
  Doubles weight(n_fine + W);
  for (int64_t t = 0; t < n_frames; ++t)
    for (int64_t n = 0; n < W && t * hop + n < n_fine + W; ++n)
      weight[t * hop + n] += window[n] * window[n];
  Doubles inverse(n_fine);
  for (int64_t i = 0; i < n_fine; ++i)
    inverse[i] = weight[half + i] > 1e-11 ? 1 / weight[half + i] : 0;
  return inverse;
}

// What sample l is of the fine series: (1 - share) of one number and share of the next.
struct Place {
  int64_t left, right;
  double share;
};

// As F.interpolate has it.
Place place_of(int64_t l, int64_t length, int64_t n_fine) {
  const double at = ((double)l + 0.5) * ((double)n_fine / (double)length) - 0.5;
  const int64_t left = std::min((int64_t)std::max(at, 0.0), n_fine - 1);
  return {left, std::min(left + 1, n_fine - 1), std::max(at, 0.0) - (double)left};
}

}  // namespace

SampleTaps sample_taps(const TokenizerConfig& config, int64_t band) {
  const int64_t W = config.n_fft, hop = config.hop(), half = W / 2, L = config.length;
  const int64_t first = config.first_row(band), F = config.n_rows(band);
  const int64_t n_frames = config.n_columns(band) << (config.n_halvings(band) + 1);
  const int64_t n_fine = (n_frames - 1) * hop;
  const Floats narrow = stft_window(W);
  const Doubles window(narrow.begin(), narrow.end());
  const Doubles inverse = inverse_weights(window, hop, n_frames, n_fine);
  Doubles turn(W);
  for (int64_t i = 0; i < W; ++i) turn[i] = (double)i * (2 * M_PI / (double)W);

  SampleTaps out{0, {}, std::vector<int64_t>(L)};
  for (int64_t l = 0; l < L; ++l) {
    const Place place = place_of(l, L, n_fine);
    out.frame[l] = (int64_t)std::ceil((double)(place.left + half - W + 1) / (double)hop);
    out.n_taps = std::max(out.n_taps, (place.right + half) / hop - out.frame[l] + 1);
  }
  out.weight.resize(L * out.n_taps * F * 2);
  const auto add = [&](int64_t l, int64_t sample, double part) {
    for (int64_t tap = 0; tap < out.n_taps; ++tap) {
      const int64_t n = sample + half - (out.frame[l] + tap) * hop;
      if (n < 0 || n >= W) continue;
      double* const to = &out.weight[(l * out.n_taps + tap) * F * 2];
      for (int64_t f = first; f < first + F; ++f) {
        const double rows = f == 0 || 2 * f == W ? 1 : 2;  // a row and its mirror image
        const double scale = rows / (double)W * window[n] * part * inverse[sample];
        to[2 * (f - first)] += std::cos(turn[f * n % W]) * scale;
        to[2 * (f - first) + 1] -= std::sin(turn[f * n % W]) * scale;
      }
    }
  };
  for (int64_t l = 0; l < L; ++l) {
    const Place place = place_of(l, L, n_fine);
    add(l, place.left, 1 - place.share), add(l, place.right, place.share);
  }
  return out;
}

}  // namespace tsgen
