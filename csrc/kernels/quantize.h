// Activations to bytes, and the row-wise pieces around the matrix products.
//
// Layout of one quantised row: `bytes` [K_pad / 4][kActivationBytes8 or 4], scale [G], sum [G]. `sum` is what a group's
// correction needs: the sum of `correction8(q)` as int32 (int8), scale * sum(q) as float (int4). Floats have neither: they are
// copied, or rounded to bf16 for a table that multiplies pairs of bf16.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

struct Activations {
  uint8_t* bytes;
  size_t row_bytes;
  float* scale;  // [rows, groups]
  float* sum;    // [rows, groups]; bits of an int32 for int8
  int groups;
};

constexpr int kRowBlock = 64;  // rows of a product's work item: their activations fit L2 while the panels stream past

#if defined(DW_BF16_DOT)
constexpr int kActivationBytesBf16 = 8;
#else
constexpr int kActivationBytesBf16 = 16;
#endif

DW_INLINE int activation_bytes(const Matrix& w) {
  return w.scheme == kInt8 ? kActivationBytes8 : w.scheme == kInt4 ? 4 : w.scheme == kBf16 ? kActivationBytesBf16 : 16;
}

DW_INLINE size_t activation_row_bytes(const Matrix& w) {
  return round_up((size_t)w.groups * w.group * activation_bytes(w) / 4, 64);
}

DW_INLINE size_t activations_bytes(const Matrix& w, int rows) {
  return rows * (activation_row_bytes(w) + 2 * round_up(w.groups * sizeof(float), 64)) + 128;
}

// Carve the arrays for `rows` rows out of `memory`.
DW_INLINE Activations activations_at(uint8_t* memory, const Matrix& w, int rows) {
  Activations a;
  a.row_bytes = activation_row_bytes(w);
  a.groups = w.groups;
  a.bytes = memory;
  a.scale = (float*)(memory + round_up(rows * a.row_bytes, 64));
  a.sum = a.scale + (size_t)rows * w.groups;
  return a;
}

// Where groups of numbers lie, and where their bytes, scales and sums go: from one group to the next.
struct GroupSteps {
  size_t x, bytes, scale;  // floats, bytes, floats
};

// `count` whole groups: bytes, scales and sums.
template <int S, int Group>
static void quantize_groups(int count, const float* x, uint8_t* out, float* scale, float* sum, const GroupSteps& step) {
  constexpr int kVectors = Group / W;
  constexpr int kChunk = 64;  // groups whose scales are computed together
  alignas(64) float amax[kChunk], inverse[kChunk];
  for (int g0 = 0; g0 < count; g0 += kChunk) {
    int n = min_of(count - g0, kChunk);
    for (int i = 0; i < n; i++) {
      const float* p = x + (g0 + i) * step.x;
      vf peak = vf{};
      for (int k = 0; k < kVectors; k++) {
        vf v = load(p + k * W);
        peak = vmax(peak, vmax(v, -v));
      }
      amax[i] = reduce_max(peak);
    }
    for (int i = n; i < round_up(n, W); i++) amax[i] = 0.0f;
    for (int i = 0; i < n; i += W) {
      vf most = load(amax + i);
      store(inverse + i, select(most > 0.0f, 127.0f / most, vf{}));
      store(amax + i, most / 127.0f);
    }
    for (int i = 0; i < n; i++) {
      const float* p = x + (g0 + i) * step.x;
      uint8_t* to = out + (g0 + i) * step.bytes;
      const size_t at = (g0 + i) * step.scale;
      vi q[kVectors];
      vi total = vi{};
      for (int k = 0; k < kVectors; k++) {
        q[k] = round_to_int(load(p + k * W) * inverse[i]);
        total += S == kInt4 ? q[k] : correction8(q[k]);
      }
      int32_t sum_q = reduce_addi(total);
      scale[at] = amax[i];
      if (S == kInt4) {
        sum[at] = amax[i] * (float)sum_q;
        store_activations4(to, q);
      } else {
        memcpy(sum + at, &sum_q, 4);
        store_activations8(to, q);
        store_activations8(to + 8 * kActivationBytes8, q + 32 / W);
      }
    }
  }
}

DW_INLINE size_t group_bytes(const Matrix& w) { return w.scheme == kInt4 ? 32 : 16 * kActivationBytes8; }

// Whole groups of int8 or int4 activations, the first of which is group `first` of row `row`.
static void quantize_at(const Matrix& w, int count, const float* x, const Activations& a, int row, int first, const GroupSteps& step) {
  uint8_t* out = a.bytes + row * a.row_bytes + first * group_bytes(w);
  const size_t at = (size_t)row * a.groups + first;
  if (w.scheme == kInt4) quantize_groups<kInt4, 32>(count, x, out, a.scale + at, a.sum + at, step);
  else quantize_groups<kInt8, 64>(count, x, out, a.scale + at, a.sum + at, step);
}

// Can rows be quantised for `w` in parts of `numbers`, by whoever has just computed one?
DW_INLINE bool quantizes_parts(const Matrix& w, int numbers) {
  return (w.scheme == kInt8 || w.scheme == kInt4) && numbers % w.group == 0 && w.cols % numbers == 0;
}

// x: [rows][numbers] float, `stride` apart -> that part of rows [row, row + rows), from column `first` on.
static void quantize_parts(const Matrix& w, const float* x, size_t stride, int numbers, const Activations& a, int row, int rows, int first) {
  const GroupSteps along = {(size_t)w.group, group_bytes(w), 1}, down = {stride, a.row_bytes, (size_t)a.groups};
  if (rows == 1) return quantize_at(w, numbers / w.group, x, a, row, first / w.group, along);
  for (int i = 0; i < numbers; i += w.group) quantize_at(w, rows, x + i, a, row, (first + i) / w.group, down);
}

// x: [cols] float -> row `row` of `a`, in the format matrix `w` wants.
static void quantize_row(const Matrix& w, const float* x, const Activations& a, int row) {
  uint8_t* out = a.bytes + row * a.row_bytes;
  if (w.scheme == kBf16 && kActivationBytesBf16 == 8) {
    uint16_t* to = (uint16_t*)out;
    int k = 0;
    for (; k + W <= w.cols; k += W) store_bf16(to + k, load(x + k));
    for (; k < w.groups * 2; k++) to[k] = k < w.cols ? to_bf16(x[k]) : 0;
    return;
  }
  if (w.scheme == kFp32 || w.scheme == kFp16 || w.scheme == kBf16) {
    memcpy(out, x, w.cols * sizeof(float));
    memset(out + w.cols * sizeof(float), 0, (w.groups * w.group - w.cols) * sizeof(float));
    return;
  }
  const int whole = w.cols / w.group, rest = w.cols % w.group;
  const GroupSteps along = {(size_t)w.group, group_bytes(w), 1};
  quantize_at(w, whole, x, a, row, 0, along);
  if (!rest) return;
  alignas(64) float padded[64] = {};  // the last group, which the row does not fill
  memcpy(padded, x + whole * w.group, rest * sizeof(float));
  quantize_at(w, 1, padded, a, row, whole, along);
}

// y = x / rms(x) * weight
static void rms_norm_row(const float* x, const float* weight, int n, float eps, float* y) {
  vf squares[4] = {};  // four chains hide the latency of the sum
  int i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; j++) {
      vf v = load(x + i + j * W);
      squares[j] = fma(v, v, squares[j]);
    }
  for (; i + W <= n; i += W) {
    vf v = load(x + i);
    squares[0] = fma(v, v, squares[0]);
  }
  float total = reduce_add((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (; i < n; i++) total = fma1(x[i], x[i], total);
  float scale = 1.0f / __builtin_sqrtf(total / (float)n + eps);
  i = 0;
  for (; i + W <= n; i += W) store(y + i, load(x + i) * scale * load(weight + i));
  for (; i < n; i++) y[i] = x[i] * scale * weight[i];
}

// Row `token` of a packed matrix, dequantised.
static void embed_row(const Matrix& w, int token, float* y) {
  const uint8_t* block = w.data + (size_t)(token / kPanel) * w.groups * w.block_bytes;
  int r = token % kPanel;
  for (int first = 0; first < w.cols; first += w.group, block += w.block_bytes) {
    int n = min_of(w.cols - first, w.group);
    float* to = y + first;
    if (w.scheme == kFp32) {
      to[0] = ((const float*)block)[r];
    } else if (w.scheme == kBf16) {
      for (int c = 0; c < n; c++) {
        uint32_t bits = (uint32_t)((const uint16_t*)block)[2 * r + c] << 16;
        memcpy(to + c, &bits, 4);
      }
    } else if (w.scheme == kFp16) {
      to[0] = half1(((const uint16_t*)block)[r]);
    } else if (w.scheme == kInt8) {
      float d = half1(((const uint16_t*)block)[r]);
      const int8_t* q = (const int8_t*)block + kPanel * 2 + r * 4;
      for (int c = 0; c < n; c++) to[c] = d * (float)q[c / 4 * kPanel * 4 + c % 4];
    } else {
      float d = half1(((const uint16_t*)block)[r]), m = half1(((const uint16_t*)block)[kPanel + r]);
      const uint8_t* q = block + kPanel * 4 + r * 4;
      for (int c = 0; c < n; c++) {
        uint8_t both = q[c / 8 * kPanel * 4 + c % 4];
        to[c] = fma1((float)(c / 4 % 2 ? both >> 4 : both & 15), d, m);
      }
    }
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
