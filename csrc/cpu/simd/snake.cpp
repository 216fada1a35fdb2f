// The inner loops of snake, once per instruction set.
#include "simd/snake.h"

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

struct Sums {
  Floats a{}, gain{}, shift{};
};

Floats forward(Floats x, float a, float gain, float shift) {
  const Floats y = x * gain + shift, sine = sine_cosine(y * a).sine;
  return y + sine * (sine / a);
}

Floats backward(Floats grad, Floats x, float a, float gain, float shift, Sums& sums) {
  const Floats y = x * gain + shift;
  const auto [sine, cosine] = sine_cosine(y * a);
  const Floats twice = 2.0f * sine * cosine;  // sin(2 a y)
  const Floats grad_y = grad * (1.0f + twice);
  sums.a += grad * (y * twice - sine * (sine / a));
  sums.gain += grad_y * x;
  sums.shift += grad_y;
  return grad_y * gain;
}

}  // namespace

void snake_row(const float* x, float a, float gain, float shift, float* out, int64_t S) {
  int64_t s = 0;
  for (; s + LANES <= S; s += LANES) store(out + s, forward(load(x + s), a, gain, shift));
  if (s < S) store_first(out + s, forward(load_first(x + s, S - s), a, gain, shift), S - s);
}

SnakeGradients snake_row_backward(const float* grad_out, const float* x, float a, float gain,
                                  float shift, float* grad_x, int64_t S) {
  Sums sums;
  int64_t s = 0;
  for (; s + LANES <= S; s += LANES)
    store(grad_x + s, backward(load(grad_out + s), load(x + s), a, gain, shift, sums));
  if (s < S) {  // lanes behind the end have no gradient and add nothing
    const int64_t rest = S - s;
    const Floats grad = load_first(grad_out + s, rest), last = load_first(x + s, rest);
    store_first(grad_x + s, backward(grad, last, a, gain, shift, sums), rest);
  }
  return {(double)sum(sums.a) / a, sum(sums.gain), sum(sums.shift)};
}

}  // namespace tsgen::cpu::TSGEN_ISA
