// Attention of a warp's 16 queries, in registers, to the keys of their sequences, in shared memory.
#pragma once

#include "cuda/narrow_rows.cuh"

namespace tsgen::cuda {

template <typename T>
struct NarrowAttention {
  const BlockSizes& z;
  const NarrowRoom& room;
  Slab<T> k, v;  // (G, key_rows, Dh), the null key behind the tokens

  // Behind the last key and the null key there is nothing, in no layer.
  __device__ void clear_keys() const {
    const int behind = room.key_rows - z.T - 1;
    for (int i = threadIdx.x; i < room.G * behind * z.Dh; i += blockDim.x) {
      const int r = i / z.Dh, key = r / behind * room.key_rows + z.T + 1 + r % behind;
      *k.at(key, i % z.Dh) = *v.at(key, i % z.Dh) = store<T>(0);
    }
  }

  // The null key, as long as others, and its value, of head h: a warp a sequence.
  __device__ __forceinline__ void store_null(const float* null_kv, const float* dims, int h) const {
    const int warp = thread_now() / WARP, lane = thread_now() % WARP;
    if (warp >= room.G) return;
    const float *const key = null_kv + h * z.Dh, *const value = key + z.H * z.Dh;
    float squares = 0;
    for (int d = lane; d < z.Dh; d += WARP) squares += key[d] * key[d];
    const float scale = 1 / fmaxf(sqrtf(over_lanes(squares, Sum())), SMALLEST_NORM);
    for (int g = warp; g < room.G; g += NARROW_WARPS)
      for (int d = lane; d < z.Dh; d += WARP) {
        *k.at(g * room.key_rows + z.T, d) = store<T>(key[d] * scale * dims[d]);
        *v.at(g * room.key_rows + z.T, d) = store<T>(value[d]);
      }
  }

  // s = q k', of keys from key0 on
  template <int tiles>
  __device__ __forceinline__ void scores(const FragmentA (&q)[4], int key0,
                                         FragmentC (&s)[tiles]) const {
    const int lane = thread_now() % WARP, key = key0 + lane / 16 * 8 + lane % 8;
    const T* at[4];
#pragma unroll
    for (int step = 0; step < 4; ++step)
      // behind the last dim q is zero, and what it is multiplied by any number
      at[step] = k.at(key, min(16 * step, z.Dh - 16) + lane / 8 % 2 * 8);
    clear(s);
#pragma unroll
    for (int j = 0; j < tiles; j += 2)
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t b[4];
        load_matrices<false>(b, at[step] + 8 * j * 64);
        multiply_add<T>(s[j], q[step], {{b[0], b[1]}});
        multiply_add<T>(s[j + 1], q[step], {{b[2], b[3]}});
      }
  }

  // s = 2^(s - its largest) in rows row() + 8 i, 0 behind the null key, which is one of the last
  // 32; returns their sum
  template <int tiles>
  __device__ __forceinline__ float exponentials(FragmentC (&s)[tiles], int i) const {
    float largest = -INFINITY, total = 0;
    const int last = z.T - tile_pair();  // the null key, as this lane counts
#pragma unroll
    for (int j = 0; j < tiles; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = s[j].at[2 * i + e];
        if (j >= tiles - 4 && 8 * j + e > last) score = -INFINITY;
        largest = fmaxf(largest, score);
      }
    largest = over_lanes<4>(largest, Max());
#pragma unroll
    for (FragmentC& part : s)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = part.at[2 * i + e];
        score = exp2_fast(score - largest);
        total += score;
      }
    return over_lanes<4>(total, Sum());
  }

  // mixed, where it belongs to head h: q looks at the keys of every row's own sequence
  template <int blocks>
  __device__ __forceinline__ void attend(const FragmentA (&q)[4], const Owned mine, int h,
                                         Packed& mixed) const {
    const int lane = thread_now() % WARP, last = min(TILE, mine.n - mine.first) - 1;
    for (int g = mine.sequence(0); g <= mine.sequence(last); ++g) {
      const int key0 = g * room.key_rows;
      FragmentC s[2 * blocks];
      scores(q, key0, s);
      const float share[2] = {1 / exponentials(s, 0), 1 / exponentials(s, 1)};
      const int r = tile_row();
      const bool own[2] = {mine.sequence(r) == g, mine.sequence(r + 8) == g};
      FragmentA weights[blocks];
#pragma unroll
      for (int block = 0; block < blocks; ++block)
        weights[block] = as_factor<T>(s[2 * block], s[2 * block + 1]);
#pragma unroll
      for (int slot = 0; slot < STEPS; ++slot) {  // known when it is compiled: mixed is registers
        const int d = 16 * slot - h * z.Dh;
        if (d < 0 || d >= z.Dh) continue;
        FragmentC c[2] = {};
        const T* const at = v.at(key0 + lane % 16, d + lane / 16 * 8);
#pragma unroll
        for (int block = 0; block < blocks; ++block) {
          uint32_t b[4];
          load_matrices<true>(b, at + 16 * block * 64);
          multiply_add<T>(c[0], weights[block], {{b[0], b[1]}});
          multiply_add<T>(c[1], weights[block], {{b[2], b[3]}});
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // row + 8 in the odd words, columns + 8 in the last two
          const float y0 = c[i / 2].at[2 * (i % 2)], y1 = c[i / 2].at[2 * (i % 2) + 1];
          if (own[i % 2]) mixed[slot].word[i] = pack<T>(y0 * share[i % 2], y1 * share[i % 2]);
        }
      }
    }
  }

  __device__ __forceinline__ void attend(const FragmentA (&q)[4], const Owned mine, int h,
                                         Packed& mixed) const {
    if (!mine.there(0)) return;
    switch (key_blocks(z.T)) {
      case 1:
        return attend<1>(q, mine, h, mixed);
      case 2:
        return attend<2>(q, mine, h, mixed);
      case 3:
        return attend<3>(q, mine, h, mixed);
      default:
        return attend<5>(q, mine, h, mixed);
    }
  }
};

}  // namespace tsgen::cuda
