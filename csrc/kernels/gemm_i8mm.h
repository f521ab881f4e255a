// Sums of integer products of several rows by SMMLA: two rows of eight columns times two outputs of eight columns in one
// instruction, twice the products of SDOT.
//
// The packed layout stays: a vector holds four columns of four outputs, and zipping it with the next four columns gives the
// operands for outputs 0, 1 and 2, 3. Two zips serve all rows of a tile. A last row without a partner is its own: SMMLA takes
// it in as many instructions as SDOT would. Sums are integers: a row has the bits of a tile of one row, which SDOT computes.
#pragma once
#include <stdint.h>

#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

#if defined(DW_I8MM)
namespace deepwell {
namespace DW_ISA {

constexpr int kColumnBytes = 128;  // of a panel: four columns of int8, or eight of int4

template <int R, int C>
struct PairSums {
  static constexpr int kPairs = (R + 1) / 2;
  int32x4_t sum[kPairs][C][2] = {};  // {row 0, row 0, row 1, row 1} times outputs 0, 1 (then 2, 3) of a vector

  // Adds columns 0..3 (`first`) and 4..7 (`second`) of C vectors of outputs, for the eight bytes at each x + at.
  [[gnu::always_inline]] void add(const vi* first, const vi* second, const uint8_t* const* x, int at) {
    int8x16_t w[C][2];
    for (int c = 0; c < C; c++) {
      w[c][0] = vreinterpretq_s8_s32(vzip1q_s32((int32x4_t)first[c], (int32x4_t)second[c]));
      w[c][1] = vreinterpretq_s8_s32(vzip2q_s32((int32x4_t)first[c], (int32x4_t)second[c]));
    }
    for (int p = 0; p < kPairs; p++) {
      int8x8_t row = vld1_s8((const int8_t*)x[2 * p] + at), partner = vld1_s8((const int8_t*)x[min_of(2 * p + 1, R - 1)] + at);
      int8x16_t rows = vcombine_s8(row, partner);
      for (int c = 0; c < C; c++)
        for (int i = 0; i < 2; i++) sum[p][c][i] = vmmlaq_s32(sum[p][c][i], rows, w[c][i]);
    }
  }

  [[gnu::always_inline]] void store_to(vi (*to)[C]) const {
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) {
        int64x2_t low = vreinterpretq_s64_s32(sum[r / 2][c][0]), high = vreinterpretq_s64_s32(sum[r / 2][c][1]);
        to[r][c] = (vi)(r % 2 ? vzip2q_s64(low, high) : vzip1q_s64(low, high));
      }
  }
};

// A group of int8: 64 columns.
template <int R, int C>
DW_INLINE void sum_pairs8(const uint8_t* q, const uint8_t* const* x, Ahead ahead, vi (*to)[C]) {
  PairSums<R, C> sums;
#pragma GCC unroll 2
  for (int i = 0; i < 16; i += 2) {
    const uint8_t* at = q + i * kColumnBytes;
    prefetch_row(at, ahead), prefetch_row(at + kColumnBytes, ahead);
    vi first[C], second[C];
    for (int c = 0; c < C; c++) first[c] = load_bytes(at + c * W * 4), second[c] = load_bytes(at + kColumnBytes + c * W * 4);
    sums.add(first, second, x, i * 4);
  }
  sums.store_to(to);
}

// A group of int4: 32 columns, of which a byte holds columns i and i + 4 of eight.
template <int R, int C>
DW_INLINE void sum_pairs4(const uint8_t* q, const uint8_t* const* x, Ahead ahead, vi (*to)[C]) {
  PairSums<R, C> sums;
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    prefetch_row(q + i * kColumnBytes, ahead);
    vi low[C], high[C];
    for (int c = 0; c < C; c++) {
      vi both = load_bytes(q + i * kColumnBytes + c * W * 4);
      low[c] = low_nibbles(both), high[c] = high_nibbles(both);
    }
    sums.add(low, high, x, i * 8);
  }
  sums.store_to(to);
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
