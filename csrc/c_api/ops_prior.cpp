// The prior's ops in the C ABI, see tsgen_ops.h.
#include <vector>

#include "c_api/call.h"
#include "model/fields.h"
#include "ops.h"
#include "tsgen_ops.h"

namespace {

using namespace tsgen::c_api;
using tsgen::bad_value;
namespace cpu = tsgen::cpu;

struct Attention {
  const float *q, *k, *v, *null_kv, *q_scale, *k_scale;
  const int64_t* lengths;
  int64_t B, H, M, N, D;

  void check(std::initializer_list<int64_t> strides) const {
    check_sizes({{"B", B, 0}, {"H", H, 1}, {"M", M, 0}, {"N", N, 0}, {"D", D, 1}});
    for (const int64_t stride : strides) check_range("stride", stride, 0, INT64_C(1) << 40);
    check_array("q", q, B * M), check_array("k", k, B * N), check_array("v", v, B * N);
    check_together("q_scale, k_scale", {q_scale, k_scale});
    if (lengths) check_ids("lengths", lengths, B, N);
  }
};

void check_head(const float* h, const float* weight, const int64_t* rows, const int64_t* target,
                const float* loss, int64_t M, int64_t R, int64_t K, int64_t D) {
  check_sizes({{"M", M, 0}, {"K", K, 1}, {"D", D, 1}});
  check_sizes({{"R", R, 0}, {"K", K, 1}, {"D", D, 1}});
  check_array("h", h, M), check_given("weight", weight), check_given("loss", loss);
  check_ids("rows", rows, R, M - 1), check_ids("target", target, R, K - 1);
}

// Two that are the same would write one gradient at once.
void check_distinct(const int64_t* rows, int64_t R, int64_t M) {
  std::vector<bool> seen(M);
  for (int64_t r = 0; r < R; ++r) {
    if (seen[rows[r]]) throw bad_value("rows", "distinct ones", std::to_string(rows[r]) + " twice");
    seen[rows[r]] = true;
  }
}

void check_taps(const float* products, const int64_t* source, const float* bias, int64_t B,
                int64_t M, int64_t T, int64_t F, int64_t N) {
  check_sizes({{"B", B, 1}, {"M", M, 1}, {"T", T, 1}, {"F", F, 1}});
  check_sizes({{"B", B, 1}, {"N", N, 1}, {"T", T, 1}, {"F", F, 1}});
  check_given("products", products), check_given("bias", bias);
  check_ids("source", source, N, M - 1);
}

}  // namespace

tsgen_status tsgen_attention(const float* q, const float* k, const float* v, const float* null_kv,
                             const float* q_scale, const float* k_scale, const int64_t* lengths,
                             float* out, int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b,
                             int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h, int64_t v_n,
                             int64_t B, int64_t H, int64_t M, int64_t N, int64_t D,
                             int32_t n_threads) {
  return call([&] {
    Attention{q, k, v, null_kv, q_scale, k_scale, lengths, B, H, M, N, D}.check(
        {q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n});
    check_array("out", out, B * M);
    cpu::attention(q, k, v, null_kv, q_scale, k_scale, lengths, out, q_b, q_h, q_m, k_b, k_h, k_n,
                   v_b, v_h, v_n, B, H, M, N, D, threads(n_threads));
  });
}

tsgen_status tsgen_attention_backward(const float* grad_out, const float* q, const float* k,
                                      const float* v, const float* null_kv, const float* q_scale,
                                      const float* k_scale, const int64_t* lengths, float* grad_q,
                                      float* grad_k, float* grad_v, float* grad_null_kv,
                                      float* grad_q_scale, float* grad_k_scale, int64_t g_b,
                                      int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h,
                                      int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n,
                                      int64_t v_b, int64_t v_h, int64_t v_n, int64_t B, int64_t H,
                                      int64_t M, int64_t N, int64_t D, int32_t n_threads) {
  return call([&] {
    Attention{q, k, v, null_kv, q_scale, k_scale, lengths, B, H, M, N, D}.check(
        {g_b, g_h, g_m, q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n});
    check_array("grad_out", grad_out, B * M), check_array("grad_q", grad_q, B * M);
    check_array("grad_k", grad_k, B * N), check_array("grad_v", grad_v, B * N);
    check_together("null_kv, grad_null_kv", {null_kv, grad_null_kv});
    check_together("q_scale, grad_q_scale, grad_k_scale", {q_scale, grad_q_scale, grad_k_scale});
    cpu::attention_backward(grad_out, q, k, v, null_kv, q_scale, k_scale, lengths, grad_q, grad_k,
                            grad_v, grad_null_kv, grad_q_scale, grad_k_scale, g_b, g_h, g_m, q_b,
                            q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, B, H, M, N, D,
                            threads(n_threads));
  });
}

tsgen_status tsgen_sample_code(const float* h, const double* u, const float* weight,
                               const float* bias, int64_t* ids, float* logp, int64_t R, int64_t D,
                               int64_t K, double temperature, int64_t top_k, double top_p,
                               int32_t n_threads) {
  return call([&] {
    check_sizes({{"R", R, 0}, {"D", D, 1}, {"K", K, 1}});
    if (!weight) check_range("K", K, D, D);
    if (bias) check_given("weight", weight);
    check_array("h", h, R), check_array("u", u, R), check_array("ids", ids, R);
    check_array("logp", logp, R);
    tsgen::check_number("temperature", temperature, 0);
    check_range("top_k", top_k, 0, INT64_MAX);
    if (!(top_p > 0 && top_p <= 1))
      throw bad_value("top_p", "a number above 0, at most 1", std::to_string(top_p));
    cpu::sample_code(h, u, weight, bias, ids, logp, R, D, K, temperature, top_k, top_p,
                     threads(n_threads));
  });
}

tsgen_status tsgen_keep_confident(const void* confidence, const int64_t* n_masked, uint8_t* masked,
                                  int64_t B, int64_t N, int64_t n_bytes, int32_t n_threads) {
  return call([&] {
    check_sizes({{"B", B, 0}, {"N", N, 0}});
    if (n_bytes != 4 && n_bytes != 8) throw bad_value("n_bytes", "4 or 8", std::to_string(n_bytes));
    check_array("confidence", confidence, B * N), check_array("masked", masked, B * N);
    check_ids("n_masked", n_masked, B, N);
    cpu::keep_confident(confidence, n_masked, masked, B, N, n_bytes, threads(n_threads));
  });
}

tsgen_status tsgen_masked_cross_entropy(const float* h, const float* weight, const float* bias,
                                        const int64_t* rows, const int64_t* target, float* loss,
                                        int64_t M, int64_t R, int64_t K, int64_t D,
                                        int32_t n_threads) {
  return call([&] {
    check_head(h, weight, rows, target, loss, M, R, K, D);
    cpu::masked_cross_entropy(h, weight, bias, rows, target, loss, M, R, K, D, threads(n_threads));
  });
}

tsgen_status tsgen_masked_cross_entropy_backward(const float* h, const float* weight,
                                                 const float* bias, const int64_t* rows,
                                                 const int64_t* target, float* loss, float* grad_h,
                                                 float* grad_weight, float* grad_bias, int64_t M,
                                                 int64_t R, int64_t K, int64_t D,
                                                 int32_t n_threads) {
  return call([&] {
    check_head(h, weight, rows, target, loss, M, R, K, D);
    check_distinct(rows, R, M);
    check_array("grad_h", grad_h, M), check_given("grad_weight", grad_weight);
    check_together("bias, grad_bias", {bias, grad_bias});
    cpu::masked_cross_entropy_backward(h, weight, bias, rows, target, loss, grad_h, grad_weight,
                                       grad_bias, M, R, K, D, threads(n_threads));
  });
}

tsgen_status tsgen_dropout(const float* x, const int64_t* seed, const float* residual, float* out,
                           int64_t n, int64_t n_dropped, int32_t n_threads) {
  return call([&] {
    check_sizes({{"n", n, 0}});
    check_range("n_dropped", n_dropped, 0, 65535);
    check_array("x", x, n), check_given("seed", seed), check_array("out", out, n);
    cpu::dropout(x, seed, residual, out, n, n_dropped, threads(n_threads));
  });
}

tsgen_status tsgen_sum_taps(const float* products, const int64_t* source, const float* bias,
                            float* h, float* mean, float* var, int64_t B, int64_t M, int64_t T,
                            int64_t F, int64_t N, int32_t n_threads) {
  return call([&] {
    check_taps(products, source, bias, B, M, T, F, N);
    check_given("h", h), check_given("mean", mean), check_given("var", var);
    cpu::sum_taps(products, source, bias, h, mean, var, B, M, T, F, N, threads(n_threads));
  });
}

tsgen_status tsgen_sum_taps_backward(const float* grad_h, const float* grad_mean,
                                     const float* grad_var, const float* mean,
                                     const float* products, const int64_t* source,
                                     const float* bias, float* grad_products, float* grad_bias,
                                     int64_t B, int64_t M, int64_t T, int64_t F, int64_t N,
                                     int32_t n_threads) {
  return call([&] {
    check_taps(products, source, bias, B, M, T, F, N);
    check_given("grad_h", grad_h), check_given("grad_mean", grad_mean);
    check_given("grad_var", grad_var), check_given("mean", mean);
    check_given("grad_products", grad_products), check_given("grad_bias", grad_bias);
    cpu::sum_taps_backward(grad_h, grad_mean, grad_var, mean, products, source, bias, grad_products,
                           grad_bias, B, M, T, F, N, threads(n_threads));
  });
}

tsgen_status tsgen_philox(const int64_t* sample, int64_t* words, uint64_t key, int64_t B, int64_t N,
                          uint32_t stream, uint32_t step, uint32_t band, int32_t n_threads) {
  return call([&] {
    check_sizes({{"B", B, 0}, {"N", N, 0}});
    check_range("N", N, 0, 1 << 24), check_range("stream", stream, 0, 255);
    check_range("step", step, 0, 65535), check_range("band", band, 0, 65535);
    check_array("sample", sample, B), check_array("words", words, B * N);
    cpu::philox(sample, words, key, B, N, stream, step, band, threads(n_threads));
  });
}
