// int8 products of many rows on AVX2: a piece of a panel is opened once into the first-level cache, then all rows pass over it.
//
// Opened weights are 16-bit pairs: `vpmaddwd` needs no sign transfer and sums straight into 32 bits, where the byte product takes
// `vpsignb`, `vpmaddubsw` and `vpmaddwd`: a tile reaches 68 against 54 GMAC/s of a core. Opening costs a tenth of that at 16 rows.
// The activations of four rows are interleaved, so that one pointer serves a tile. Every output sees the operations of gemm.h in
// the same order: the bits are equal. (int4 gains nothing: its byte products fit 16-bit sums.)
#pragma once
#include "common.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

#if defined(DW_AVX2)
namespace deepwell {
namespace DW_ISA {

struct OpenGroup {  // 64 columns of 32 rows
  float d[kPanel];
  int16_t q[32][kPanel * 2];  // [2 columns][row][column]
};

constexpr int kOpenGroups = 3;  // 12 kB: leaves room for activations and sums

DW_INLINE void open_group(const uint8_t* block, OpenGroup* to) {
  for (int v = 0; v < kPanel; v += W) store(to->d + v, load_half((const uint16_t*)block + v));
  const uint8_t* q = block + kPanel * 2;
  // Each byte to the upper half of its lane; an arithmetic shift brings it down with its sign.
  const __m256i first = _mm256_set1_epi32((int32_t)0x01800080), second = _mm256_set1_epi32((int32_t)0x03800280);
  const __m256i lanes = _mm256_setr_epi32(0, 0x04000400, 0x08000800, 0x0c000c00, 0, 0x04000400, 0x08000800, 0x0c000c00);
  const __m256i low = _mm256_add_epi8(first, lanes), high = _mm256_add_epi8(second, lanes);
  for (int i = 0; i < 16; i++)
    for (int v = 0; v < 4; v++) {
      __m256i w = (__m256i)load_bytes(q + i * 128 + v * 32);
      _mm256_storeu_si256((__m256i*)(to->q[2 * i] + v * 16), _mm256_srai_epi16(_mm256_shuffle_epi8(w, low), 8));
      _mm256_storeu_si256((__m256i*)(to->q[2 * i + 1] + v * 16), _mm256_srai_epi16(_mm256_shuffle_epi8(w, high), 8));
    }
}

// One product and its sum in one piece of assembly: left alone, GCC computes all products of a step first and spills sums.
DW_INLINE void add_product(__m256i* sum, __m256i w, __m256i x) {
  __m256i t;
  asm("vpmaddwd %[x], %[w], %[t]\n\tvpaddd %[t], %[sum], %[sum]" : [sum] "+x"(*sum), [t] "=&x"(t) : [w] "x"(w), [x] "x"(x));
}

DW_INLINE __m256i broadcast4(const uint8_t* p) { return _mm256_castps_si256(_mm256_broadcast_ss((const float*)p)); }

// y[R][32] += R rows of the tile of four at `x` times `groups` opened groups; `scale` is [group][4].
template <int R>
__attribute__((noinline)) static void wide_tile(const OpenGroup* open, int groups, const uint8_t* x, const float* scale,
                                                const uint8_t* ahead, size_t step, float* y) {
  for (int g = 0; g < groups; g++, open++, x += 128 * kWideTile, scale += kWideTile)
    for (int c0 = 0; c0 < kPanel; c0 += 2 * W, ahead += step) {
      for (size_t i = 0; i < step; i += 64) prefetch(ahead + i);
      __m256i acc[R][2] = {};
#pragma GCC unroll 8
      for (int s = 0; s < 32; s++) {
        __m256i w0 = (__m256i)load_bytes(open->q[s] + c0 * 2), w1 = (__m256i)load_bytes(open->q[s] + c0 * 2 + 16);
        for (int r = 0; r < R; r++) {
          __m256i pair = broadcast4(x + (s * kWideTile + r) * 4);
          add_product(&acc[r][0], w0, pair);
          add_product(&acc[r][1], w1, pair);
        }
      }
      for (int c = 0; c < 2; c++) {
        int at = c0 + c * W;
        vf d = load(open->d + at);
        for (int r = 0; r < R; r++)
          store(y + r * kPanel + at, fma(to_float((vi)acc[r][c]), d * scale[r], load(y + r * kPanel + at)));
      }
    }
}

static void wide_rows(const OpenGroup* open, int groups, int rows, const uint8_t* x, const float* scale, const uint8_t* ahead,
                      size_t step, float* y) {
  switch (rows) {
    case 1: return wide_tile<1>(open, groups, x, scale, ahead, step, y);
    case 2: return wide_tile<2>(open, groups, x, scale, ahead, step, y);
    case 3: return wide_tile<3>(open, groups, x, scale, ahead, step, y);
    default: return wide_tile<4>(open, groups, x, scale, ahead, step, y);
  }
}

// Rows [row, end) of one panel, at most kRowBlock; `row` is a multiple of kWideTile.
template <class Epilogue>
static void wide_panel_rows(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
  alignas(64) OpenGroup open[kOpenGroups];
  alignas(64) float y[kRowBlock * kPanel];
  const uint8_t* block = w.data + (size_t)p * w.groups * w.block_bytes;
  const size_t tiles = (end - row + kWideTile - 1) / kWideTile;
  for (int i = 0; i < (end - row) * kPanel; i += W) {
    store(y + i, vf{});
    asm volatile("" ::: "memory");  // else it becomes `rep stos`, which is slow to start
  }
  for (int g0 = 0; g0 < w.groups; g0 += kOpenGroups) {
    int groups = w.groups - g0 < kOpenGroups ? w.groups - g0 : kOpenGroups;
    for (int g = 0; g < groups; g++, block += w.block_bytes) open_group(block, open + g);
    // The next piece, of this panel or the next one, arrives while the rows pass over this one, a few lines at a time.
    constexpr int steps = kPanel / (2 * W);  // of a group
    const size_t step = (w.block_bytes / tiles + steps - 1) / steps;
    const uint8_t* ahead = block;
    for (int r = row; r < end; r += kWideTile, ahead += groups * steps * step) {
      const float* scale = a.scale + (size_t)r * a.groups + g0 * kWideTile;
      wide_rows(open, groups, end - r, a.bytes + r * a.row_bytes + (size_t)g0 * 128 * kWideTile, scale, ahead, step,
                y + (r - row) * kPanel);
    }
  }
  for (int r = row; r < end; r++) epilogue(r, p, y + (r - row) * kPanel);
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
