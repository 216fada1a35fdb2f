// Attention for one head of one sequence, once per instruction set: everything in the cache.
#include "simd/attention.h"

#include "simd/attention_rows.h"
#include "simd/attention_tiles.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

constexpr float EPS = 1e-12f;          // of the norm, as attention.py has it
constexpr int64_t SCORES = 16 * 1024;  // at a time, that is a block of queries: 64 KiB

// What a head needs room for: `block` queries at a time, as even as they go.
struct Sizes {
  int64_t keys, wide, deep, block;  // wide: keys, deep: D, both padded
  int64_t even;  // keys that fill vectors; a few left over are cheaper one by one
  Sizes(int64_t M, int64_t keys, int64_t max_keys, int64_t D)
      : keys(keys), wide(whole_vectors(keys)), deep(whole_vectors(D)) {
    const int64_t fit = SCORES / (max_keys + 1), most = fit < TILE_ROWS ? TILE_ROWS : fit;
    const int64_t n_blocks = M ? (M + most - 1) / most : 1;
    block = (M + n_blocks - 1) / n_blocks;
    even = keys % LANES > LANES / 4 ? keys : keys - keys % LANES;
  }
  // of about so many products with keys and with rows
  int64_t tiles(int64_t M, int64_t with_keys, int64_t with_rows) const {
    return 1 + M / TILE_ROWS * (with_keys * wide + with_rows * deep) / PANEL;
  }
  int64_t rows() const { return keys * deep; }
  int64_t panels() const { return (even + PANEL - 1) / PANEL * PANEL * deep; }
  int64_t prepared() const { return ((wide + PANEL - 1) / PANEL * PANEL + LANES) * deep; }
  int64_t scores() const { return block * wide; }
  int64_t queries() const { return block * deep; }
};

void add_head(const AttentionHead& head, Ahead& ahead) {
  ahead.add(head.q, head.q_stride, head.M);
  ahead.add(head.k, head.k_stride, head.N);
  ahead.add(head.v, head.v_stride, head.N);
}

float* take(float*& scratch, int64_t n) {
  float* const here = scratch;
  scratch += (n + 15) / 16 * 16;
  return here;
}

void zero_rows(float* to, int64_t stride, int64_t n, int64_t D) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t d = 0; d < D; ++d) to[i * stride + d] = 0.0f;
}

void store_row(float* to, const float* x, int64_t D) {
  int64_t d = 0;
  for (; d + LANES <= D; d += LANES) store(to + d, load(x + d));
  if (d < D) store_first(to + d, load(x + d), D - d);
}

void add_to(double* sum, const float* x, int64_t D) {
  for (int64_t d = 0; d < D; ++d) sum[d] += x[d];
}

// Rows to be multiplied with, as `transpose` lays them out, and after those the rows left over.
void prepare(const Rows& rows, const Sizes& sizes, const float* scale, const float* weight,
             float* to) {
  transpose(rows, sizes.even, scale, weight, to);
  to += sizes.panels();
  for (int64_t j = sizes.even; j < sizes.keys; ++j, to += sizes.deep) {
    copy_rows({nullptr, rows[j], 0, rows.D}, 1, scale ? scale + j : nullptr, to);
    for (int64_t d = 0; weight && d < sizes.deep; d += LANES)
      store(to + d, load(to + d) * load(weight + d));
  }
}

// scores (n, wide) = x . keys    keys: as `prepare` left them. Zeros behind them.
void multiply_keys(const Rows& x, const float* keys, const Sizes& sizes, float* scores, int64_t n,
                   Ahead& ahead) {
  const Product p{x.others, keys, scores, x.stride, PANEL, sizes.wide, x.D, 0, false};
  multiply<Left::rows>(p, PANEL * sizes.deep, n, whole_vectors(sizes.even), ahead);
  if (sizes.even == sizes.keys) return;
  keys += sizes.panels();
  for (int64_t i = 0; i < n; i += LANES) {
    const int64_t rows = n - i < LANES ? n - i : LANES;
    float* const to = scores + i * sizes.wide + sizes.even;
    for (int64_t r = 0; r < rows; ++r) store(to + r * sizes.wide, Floats{});
    for (int64_t j = 0; j < sizes.keys - sizes.even; ++j) {
      const Floats s = dots(x, {nullptr, keys + j * sizes.deep, 0, x.D}, i, n);
      for (int64_t r = 0; r < rows; ++r) to[r * sizes.wide + j] = s[r];
    }
  }
}

// A B of row-major matrices in scratch memory, whose rows are whole vectors.
template <Left left>
void multiply_rows(const float* a, int64_t lda, const float* b, int64_t deep, float* c, int64_t M,
                   int64_t K, bool add, Ahead& ahead) {
  multiply<left>({a, b, c, lda, deep, deep, K, 0, add}, PANEL, M, deep, ahead);
}

float score_scale(int64_t D) { return 1.0f / __builtin_sqrtf((float)D); }

// x (deep) = the gradient by weight y/|y| -> that by y. unit: y/|y|, inverse: 1/|y|
void through_norm(float* x, const float* unit, const float* weight, float scale, float inverse,
                  int64_t deep) {
  Floats products{};
  for (int64_t d = 0; d < deep; d += LANES) {
    const Floats y = load(x + d) * (load(weight + d) * scale);
    store(x + d, y);
    products += y * load(unit + d);
  }
  // below EPS the norm is a constant
  const float along = inverse < 1.0f / EPS ? sum(products) : 0.0f;
  for (int64_t d = 0; d < deep; d += LANES)
    store(x + d, (load(x + d) - load(unit + d) * along) * inverse);
}

void scale_row(float* x, float scale, int64_t deep) {
  for (int64_t d = 0; d < deep; d += LANES) store(x + d, load(x + d) * scale);
}

// ds = p (ds - sum(p ds)), the derivative of a softmax
void softmax_backward(const float* p, float* ds, int64_t wide) {
  Floats products{};
  for (int64_t i = 0; i < wide; i += LANES) products += load(p + i) * load(ds + i);
  const float mean = sum(products);
  for (int64_t i = 0; i < wide; i += LANES) store(ds + i, load(p + i) * (load(ds + i) - mean));
}

}  // namespace

int64_t attend_scratch(int64_t M, int64_t keys, int64_t D) {
  const Sizes sizes(M, keys, keys, D);
  return sizes.rows() + sizes.prepared() + sizes.scores() + keys + 2 * sizes.block + 6 * 16;
}

void attend_head(const AttentionHead& head, const AttentionHead* next, float* out,
                 int64_t out_stride, float* scratch) {
  const auto& [q, k, v, null_k, null_v, weight, q_stride, k_stride, v_stride, M, N, max_keys, D] =
      head;
  const Sizes sizes(M, N + (null_k != nullptr), max_keys, D);
  if (!sizes.keys) return zero_rows(out, out_stride, M, D);
  const Rows keys{null_k, k, k_stride, D};
  float* const values = take(scratch, sizes.rows());
  float* const keys_t = take(scratch, sizes.prepared());
  float* const scores = take(scratch, sizes.scores());
  float* const scale = take(scratch, 2 * sizes.block + LANES);
  float* const inverse = weight ? take(scratch, sizes.keys + LANES) : nullptr;
  if (weight) inverse_norms(keys, sizes.keys, EPS, inverse);
  prepare(keys, sizes, inverse, weight, keys_t);
  copy_rows({null_v, v, v_stride, D}, sizes.keys, nullptr, values);

  Ahead ahead(D, sizes.tiles(M, 1, 1));
  if (next) {
    ahead.add(out, out_stride, M);
    add_head(*next, ahead);
  }
  for (int64_t m = 0; m < M; m += sizes.block) {
    const int64_t n = M - m < sizes.block ? M - m : sizes.block;
    const Rows queries{nullptr, q + m * q_stride, q_stride, D};
    multiply_keys(queries, keys_t, sizes, scores, n, ahead);
    // a query is not normalised: its length only scales its row of scores
    if (weight) inverse_norms(queries, n, EPS, scale);
    for (int64_t i = 0; i < n; ++i) scale[i] = score_scale(D) * (weight ? scale[i] : 1.0f);
    softmax(scores, scale, n, sizes.keys);
    const Product p{scores,     values,     out + m * out_stride,
                    sizes.wide, sizes.deep, out_stride,
                    sizes.keys, 0,          false};
    multiply<Left::rows>(p, PANEL, n, D, ahead);
  }
}

int64_t attend_scratch_backward(int64_t M, int64_t keys, int64_t D) {
  const Sizes sizes(M, keys, keys, D);
  return 3 * sizes.rows() + 2 * sizes.prepared() + 2 * sizes.scores() + 3 * sizes.queries() +
         sizes.deep + keys + 3 * sizes.block + 16 * 16;
}

// With u = q/|q|, t = k/|k|, w = q_scale k_scale / sqrt(D) and s = u (w t): dv = pT g,
// ds = p (g vT - mean), du = w (ds t), dt = w (dsT u), dw = the sum of u (ds t) over queries.
void attend_head_backward(const AttentionHead& head, const AttentionHead* next, const float* grad,
                          const float* next_grad, int64_t grad_stride,
                          const AttentionGradients& grads, float* scratch) {
  const auto& [q, k, v, null_k, null_v, weight, q_stride, k_stride, v_stride, M, N, max_keys, D] =
      head;
  const int64_t null = null_k != nullptr;
  const Sizes sizes(M, N + null, max_keys, D);
  const int64_t deep = sizes.deep, wide = sizes.wide;
  if (!sizes.keys) return zero_rows(grads.q, grads.q_stride, M, D);
  float* const t = take(scratch, sizes.rows());
  float* const dt = take(scratch, sizes.rows());
  float* const dv = take(scratch, sizes.rows());
  float* const keys_t = take(scratch, sizes.prepared());
  float* const values_t = take(scratch, sizes.prepared());
  float* const p = take(scratch, sizes.scores());
  float* const ds = take(scratch, sizes.scores());
  float* const u = take(scratch, sizes.queries());
  float* const du = take(scratch, sizes.queries());
  float* const g = take(scratch, sizes.queries());
  float* const scales = take(scratch, 2 * sizes.block);
  float* const dw = take(scratch, deep);
  float* const inverse_k = weight ? take(scratch, sizes.keys + LANES) : nullptr;
  float* const inverse_q = weight ? take(scratch, sizes.block + LANES) : nullptr;
  const Rows keys{null_k, k, k_stride, D};
  if (weight) inverse_norms(keys, sizes.keys, EPS, inverse_k);
  copy_rows(keys, sizes.keys, inverse_k, t);
  prepare({nullptr, t, deep, D}, sizes, nullptr, weight, keys_t);
  prepare({null_v, v, v_stride, D}, sizes, nullptr, nullptr, values_t);
  if (!M) zero_rows(dv, deep, sizes.keys, deep), zero_rows(dt, deep, sizes.keys, deep);
  const float scale = score_scale(D);

  Ahead ahead(D, sizes.tiles(M, 2, 3));
  if (next) {
    ahead.add(grads.q, grads.q_stride, M);
    ahead.add(grads.k, grads.kv_stride, N);
    ahead.add(grads.v, grads.kv_stride, N);
    ahead.add(next_grad, grad_stride, M);
    add_head(*next, ahead);
  }
  for (int64_t m = 0; m < M; m += sizes.block) {
    const int64_t n = M - m < sizes.block ? M - m : sizes.block;
    const Rows queries{nullptr, q + m * q_stride, q_stride, D};
    if (weight) inverse_norms(queries, n, EPS, inverse_q);
    copy_rows(queries, n, inverse_q, u);
    copy_rows({nullptr, grad + m * grad_stride, grad_stride, D}, n, nullptr, g);
    multiply_keys({nullptr, u, deep, D}, keys_t, sizes, p, n, ahead);
    multiply_keys({nullptr, g, deep, D}, values_t, sizes, ds, n, ahead);
    for (int64_t i = 0; i < n; ++i) scales[i] = scale;
    softmax(p, scales, n, sizes.keys);
    for (int64_t i = 0; i < n; ++i) softmax_backward(p + i * wide, ds + i * wide, wide);
    multiply_rows<Left::columns>(p, wide, g, deep, dv, sizes.keys, n, m > 0, ahead);
    multiply_rows<Left::columns>(ds, wide, u, deep, dt, sizes.keys, n, m > 0, ahead);
    multiply_rows<Left::rows>(ds, wide, t, deep, du, n, sizes.keys, false, ahead);
    if (weight) {
      for (int64_t d = 0; d < deep; d += LANES) {
        Floats sum{};
        for (int64_t i = 0; i < n; ++i) sum += load(u + i * deep + d) * load(du + i * deep + d);
        store(dw + d, sum * scale);
      }
      add_to(grads.weight, dw, D);
    }
    for (int64_t i = 0; i < n; ++i) {
      float* const row = du + i * deep;
      if (weight)
        through_norm(row, u + i * deep, weight, scale, inverse_q[i], deep);
      else
        scale_row(row, scale, deep);
      store_row(grads.q + (m + i) * grads.q_stride, row, D);
    }
  }

  for (int64_t j = 0; j < sizes.keys; ++j) {
    float* const row = dt + j * deep;
    if (weight)
      through_norm(row, t + j * deep, weight, scale, inverse_k[j], deep);
    else
      scale_row(row, scale, deep);
    if (j < null) continue;
    store_row(grads.k + (j - null) * grads.kv_stride, row, D);
    store_row(grads.v + (j - null) * grads.kv_stride, dv + j * deep, D);
  }
  if (null) add_to(grads.null_k, dt, D), add_to(grads.null_v, dv, D);
}

}  // namespace tsgen::cpu::TSGEN_ISA
