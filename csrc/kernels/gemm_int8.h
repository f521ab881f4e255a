// int8 products of several rows on AVX2. A panel is read front to back once for all rows of a work item: group by group, in each of which
// tiles of four rows and two vectors take turns, while the next group is asked for. Memory and arithmetic then overlap evenly; passes of a few
// rows over half a panel each take turns with memory (3 rows from memory: 1.4 x, 8 rows: 1.2 x). One row has its tile in gemm.h,
// which keeps its sums in registers (5 % faster). Every output sees the same operations in the same order either way.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "common.h"
#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

#if defined(DW_AVX2)
namespace deepwell {
namespace DW_ISA {

constexpr int kInt8Rows = 4;
constexpr int kInt8Steps = 16;  // of 4 columns: a group

// `dot8` of two vectors of weights, in one piece of assembly: left alone, GCC spills the sums of several rows.
DW_INLINE void add_products8(vi* sum0, vi* sum1, vi w0, vi w1, const uint8_t* x, vi ones) {
  vi size, flip, t;
  asm("vbroadcastss %[x], %[size]\n\tvbroadcastss %[negative], %[flip]\n\t"
      "vpxor %[w0], %[flip], %[t]\n\tvpxor %[w1], %[flip], %[flip]\n\t"
      "vpmaddubsw %[t], %[size], %[t]\n\tvpmaddubsw %[flip], %[size], %[flip]\n\t"
      "vpmaddwd %[ones], %[t], %[t]\n\tvpmaddwd %[ones], %[flip], %[flip]\n\t"
      "vpaddd %[t], %[s0], %[s0]\n\tvpaddd %[flip], %[s1], %[s1]"
      : [s0] "+x"(*sum0), [s1] "+x"(*sum1), [size] "=&x"(size), [flip] "=&x"(flip), [t] "=&x"(t)
      : [w0] "x"(w0), [w1] "x"(w1), [x] "m"(*(const vfu*)x), [negative] "m"(*(const vfu*)(x + 4)), [ones] "x"(ones));
}

// One group of columns of R rows: y[R][32] grows. `Lines` are asked for with every four steps; returns what is to be asked for next.
template <int R, int Lines>
static const uint8_t* group_int8(const uint8_t* block, const Activations& a, int row, int g, const uint8_t* ask, float* y) {
  const size_t at = (size_t)row * a.groups + g;
  const vi ones = (vi)_mm256_set1_epi16(1);
  for (int c0 = 0; c0 < kPanel; c0 += 2 * W) {
    const uint8_t* q = block + kPanel * 2 + c0 * 4;
    const uint8_t* x = a.bytes + row * a.row_bytes + (size_t)g * kInt8Steps * kActivationBytes8;
    vi sum[R][2];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < 2; c++) sum[r][c] = start8(((const int32_t*)a.sum)[at + (size_t)r * a.groups]);
    for (int i = 0; i < kInt8Steps; i += 4, q += 4 * kPanel * 4, x += 4 * kActivationBytes8, ask += Lines * 64)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        for (int n = j * Lines / 4; n < (j + 1) * Lines / 4; n++) prefetch(ask + n * 64);
        vi w0 = load_bytes(q + j * kPanel * 4), w1 = load_bytes(q + j * kPanel * 4 + W * 4);
        for (int r = 0; r < R; r++) add_products8(&sum[r][0], &sum[r][1], w0, w1, x + r * a.row_bytes + j * kActivationBytes8, ones);
      }
    for (int c = 0; c < 2; c++) {
      vf d = load_half((const uint16_t*)block + c0 + c * W);
      for (int r = 0; r < R; r++) {
        float* to = y + r * kPanel + c0 + c * W;
        store(to, fma(to_float(sum[r][c]), d * a.scale[at + (size_t)r * a.groups], load(to)));
      }
    }
  }
  return ask;
}

// Rows [row, end) of one panel, at most kRowBlock.
template <class Epilogue>
static void int8_panel_rows(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
  using Tile = const uint8_t* (*)(const uint8_t*, const Activations&, int, int, const uint8_t*, float*);
  // The lines of a group are shared out among its tiles: those of few rows ask for more each.
  static constexpr Tile alone[] = {group_int8<1, 4>, group_int8<2, 4>, group_int8<3, 4>, group_int8<4, 4>};
  static constexpr Tile among[] = {group_int8<1, 2>, group_int8<2, 2>, group_int8<3, 2>, group_int8<4, 2>};
  static constexpr Tile after[] = {group_int8<1, 0>, group_int8<2, 0>, group_int8<3, 0>, group_int8<4, 0>};
  alignas(64) float y[kRowBlock * kPanel];
  const uint8_t* block = w.data + (size_t)p * w.groups * w.block_bytes;
  const int rows = end - row;
  for (int i = 0; i < rows * kPanel; i += W) {
    store(y + i, vf{});
    asm volatile("" ::: "memory");  // else it becomes `rep stos`, which is slow to start
  }
  for (int g = 0; g < w.groups; g++, block += w.block_bytes) {
    const uint8_t* ask = block + w.block_bytes;
    for (int r = 0; r < rows; r += kInt8Rows) {
      const Tile* tiles = rows <= kInt8Rows ? alone : r < 2 * kInt8Rows ? among : after;
      int n = min_of(rows - r, kInt8Rows);
      ask = tiles[n - 1](block, a, row + r, g, ask, y + r * kPanel);
    }
  }
  for (int r = row; r < end; r++) epilogue(r, p, y + (r - row) * kPanel);
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
