// Tiles of 16-bit weights. Activations stay float32, so an output is the same chain of fused multiply-adds in column order as with
// fp32 weights, bit for bit, at half the bytes. Only where the processor multiplies pairs of bf16 (DW_BF16_DOT) are the activations
// of a bf16 matrix rounded to bf16 too.
#pragma once
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

// A 32-bit word holds two columns of one row: a shift and a mask widen both.
template <int R, int C>
DW_INLINE void tile_bf16(const Matrix& w, const uint8_t* panel, int c0, const Activations& a, int row, Ahead ahead, float* out) {
  vf y[R][C] = {};
  const uint8_t* x[R];
  for (int r = 0; r < R; r++) x[r] = a.bytes + (row + r) * a.row_bytes;
  const uint8_t* block = panel + c0 * W * 4;
  for (int g = 0; g < w.groups; g++, block += kPanel * 4) {
    prefetch_ahead(block, ahead), prefetch_ahead(block + 64, ahead);
    vi pair[C];
    for (int c = 0; c < C; c++) pair[c] = load_bytes(block + c * W * 4);
#if defined(DW_BF16_DOT)
    for (int r = 0; r < R; r++) {
      int32_t xs;
      memcpy(&xs, x[r] + g * 4, 4);
      for (int c = 0; c < C; c++) y[r][c] = dpbf16(y[r][c], pair[c], set1i(xs));
    }
#else
    for (int odd = 0; odd < 2; odd++) {  // all rows of a column before the next: 4 x 2 sums leave few registers
      vf wv[C];
      for (int c = 0; c < C; c++) wv[c] = (vf)(odd ? pair[c] & set1i((int32_t)0xffff0000) : pair[c] << 16);
      for (int r = 0; r < R; r++) {
        vf xs = set1(((const float*)x[r])[2 * g + odd]);
        for (int c = 0; c < C; c++) y[r][c] = fma(xs, wv[c], y[r][c]);
      }
    }
#endif
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * kPanel + (c0 + c) * W, y[r][c]);
}

template <int R, int C>
DW_INLINE void tile_fp16(const Matrix& w, const uint8_t* panel, int c0, const Activations& a, int row, Ahead ahead, float* out) {
  vf y[R][C] = {};
  const float* x[R];
  for (int r = 0; r < R; r++) x[r] = (const float*)(a.bytes + (row + r) * a.row_bytes);
  const uint16_t* p = (const uint16_t*)panel + c0 * W;
  for (int k = 0; k < w.cols; k++, p += kPanel) {
    prefetch_ahead(p, ahead);
    vf wv[C];
    for (int c = 0; c < C; c++) wv[c] = load_half(p + c * W);
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) y[r][c] = fma(set1(x[r][k]), wv[c], y[r][c]);
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * kPanel + (c0 + c) * W, y[r][c]);
}

}  // namespace DW_ISA
}  // namespace deepwell
