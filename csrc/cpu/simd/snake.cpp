// The inner loops of snake, once per instruction set.
#include "simd/snake.h"

#include "simd/snake_vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

void snake_row(const float* x, float a, float gain, float shift, float* out, int64_t S) {
  int64_t s = 0;
  for (; s + LANES <= S; s += LANES) store(out + s, snake(load(x + s), a, gain, shift));
  if (s < S) store_first(out + s, snake(load_first(x + s, S - s), a, gain, shift), S - s);
}

SnakeGradients snake_row_backward(const float* grad_out, const float* x, float a, float gain,
                                  float shift, float* grad_x, int64_t S) {
  SnakeSums sums;
  int64_t s = 0;
  for (; s + LANES <= S; s += LANES)
    store(grad_x + s, snake_backward(load(grad_out + s), load(x + s), a, gain, shift, sums));
  if (s < S) {  // lanes behind the end have no gradient and add nothing
    const int64_t rest = S - s;
    const Floats grad = load_first(grad_out + s, rest), last = load_first(x + s, rest);
    store_first(grad_x + s, snake_backward(grad, last, a, gain, shift, sums), rest);
  }
  return {(double)sum(sums.a) / a, sum(sums.gain), sum(sums.shift)};
}

}  // namespace tsgen::cpu::TSGEN_ISA
