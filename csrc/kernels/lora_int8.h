// Adapters in bytes, beside an int8 or int4 base: t = A x as the products of the base, y + B t on digits of t.
//
// A: per strip of 16 ranks and group of 64 columns the scales [16] float, then [16][16 ranks][4 columns]. x comes as the base's activations:
// of 64 columns (int8), or of 32 (int4) where their bytes are those that `dot8` reads, which AVX2 has not. t is rounded to 14 bits and a sign, with one scale a row, and kept as two digits of 7 bits, t ~ scale (128 upper + lower).
// B: the scales of all runs, [16] bf16 each, then per run [ranks / 4][16 outputs][4 ranks]. Sums of integers have the same bits in any
// order; floats are one chain in the order of columns.
//
// NOTE cost. Of 16 rows with 8 adapters of rank 16, floats took 3.4 ms of a step of 21 beside weights that lay in the cache: four
// instructions widen and scale two vectors of bytes, and 2 R multiply them. A dot product takes one for four columns.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

constexpr size_t kLoraBlockBytes = 16 * sizeof(float) + 16 * kLoraGroup;  // of a strip and group of A
constexpr int kLoraPeak = 127 * 128;
constexpr size_t kLoraAhead = 6144;  // bytes of A: a group takes some twenty cycles, memory some hundred times as many

// Where the digits of a row's t lie: bytes as `dot8` reads them, and sums of corrections before each four ranks.
struct LoraDigits {
  uint8_t* digits[2];   // upper, lower: [ranks / 4][kActivationBytes8]
  int32_t* before[2];   // [ranks / 4 + 1]
  float* scale;
};

// Floats that t of a row takes, whatever the adapter's dtype.
DW_INLINE int lora_floats(int ranks) { return round_up(round_up(ranks, 32) * 3 / 2 + 3, 16); }

DW_INLINE LoraDigits lora_digits_at(float* t, int ranks) {
  const size_t bytes = (size_t)round_up(ranks, 32) / 4 * kActivationBytes8;
  LoraDigits d;
  for (int i = 0; i < 2; i++) d.digits[i] = (uint8_t*)t + i * bytes;
  int32_t* sums = (int32_t*)((uint8_t*)t + 2 * bytes);
  for (int i = 0; i < 2; i++) d.before[i] = sums + i * (ranks / 4 + 1);
  d.scale = (float*)(sums + 2 * (ranks / 4 + 1));
  return d;
}

// Rounds t [ranks, a multiple of 16], whose floats up to a multiple of 32 are zeros.
static void lora_round(const float* t, int ranks, const LoraDigits& to) {
  vf peak = vf{};
  for (int i = 0; i < ranks; i += W) peak = vmax(peak, vmax(load(t + i), -load(t + i)));
  const float most = reduce_max(peak), inverse = most > kSmallestLoraPeak ? kLoraPeak / most : 0.0f;
  *to.scale = most > kSmallestLoraPeak ? most / kLoraPeak : 0.0f;
  int32_t sums[2] = {};
  for (int first = 0; first < ranks; first += 32) {
    vi digit[2][32 / W];
    alignas(64) int32_t corrections[2][32];
    for (int v = 0; v < 32 / W; v++) {
      vi q = round_to_int(load(t + first + v * W) * inverse);
      digit[0][v] = q >> 7;
      digit[1][v] = q & 127;
      for (int i = 0; i < 2; i++) *(viu*)(corrections[i] + v * W) = correction8(digit[i][v]);
    }
    for (int i = 0; i < 2; i++) {
      store_activations8(to.digits[i] + first / 4 * kActivationBytes8, digit[i]);
      for (int k = 0; k < min_of(ranks - first, 32); k += 4) {
        to.before[i][(first + k) / 4] = sums[i];
        sums[i] += (corrections[i][k] + corrections[i][k + 1]) + (corrections[i][k + 2] + corrections[i][k + 3]);
      }
    }
  }
  for (int i = 0; i < 2; i++) to.before[i][ranks / 4] = sums[i];
}

// Activations of an int4 base are bytes that `dot8` reads.
constexpr bool kLoraReadsInt4 = kActivationBytes8 == 4;

// What is asked for while A is read: itself kLoraAhead further on, and behind its end the A that is read next.
struct LoraAhead {
  const uint8_t *end, *next;  // null: nothing

  const uint8_t* of(const uint8_t* at) const {
    const uint8_t* ahead = at + kLoraAhead;
    return ahead < end ? ahead : next ? next + (ahead - end) : at;
  }
};

// t of 16 ranks for R rows of `x`, the rows rows[r]. `x` has H groups for each of A.
template <int R, int H>
static void lora_strip(const uint8_t* block, int groups, const LoraAhead& ahead, const Activations& x, const int32_t* rows,
                       float (*t)[kMaxLoraRanks], int first) {
  constexpr int C = 16 / W, kSteps = 16 / H;
#if defined(DW_AVX512)
  constexpr int kSums = 16;  // of 32 registers: several chains hide the latency of one
  constexpr float kBias = H == 1 ? 0.0f : 128.0f;  // what `open8` adds to a weight, where no sum of integers is there to start from
#else
  constexpr int kSums = 8;
  constexpr float kBias = 0.0f;
#endif
  constexpr int N = R * C * 4 <= kSums ? 4 : R * C * 2 <= kSums ? 2 : 1;
  vf y[R][C] = {};
  for (int g = 0; g < groups; g++, block += kLoraBlockBytes)
    for (int h = 0; h < H && g * H + h < x.groups; h++) {
      const uint8_t* q = block + 16 * sizeof(float) + h * kSteps * 64;
      const uint8_t* later = ahead.of(q);
      const uint8_t* from[R];
      size_t at[R];
      vi sum[N][R][C] = {};
      for (int r = 0; r < R; r++) {
        at[r] = (size_t)rows[r] * x.groups + g * H + h;
        from[r] = x.bytes + rows[r] * x.row_bytes + (size_t)(g * H + h) * kSteps * kActivationBytes8;
        int32_t start = 0;
        if (H == 1) memcpy(&start, x.sum + at[r], 4);
        for (int c = 0; c < C; c++) sum[0][r][c] = H == 1 ? start8(start) : vi{};
      }
      for (int i = 0; i < kSteps; i += N)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
          prefetch_later(later + (i + n) * 64);
          prefetch(q + (i + n) * 64 + kLoraBlockBytes);
          for (int c = 0; c < C; c++) {
            weight8 w = open8(load_bytes(q + (i + n) * 64 + c * W * 4));
            for (int r = 0; r < R; r++) sum[n][r][c] = dot8(sum[n][r][c], w, from[r] + (i + n) * kActivationBytes8);
          }
        }
      for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) {
          vi all = sum[0][r][c];
          for (int n = 1; n < N; n++) all += sum[n][r][c];
          const vf scale = load((const float*)block + c * W);
          y[r][c] = fma(to_float(all), scale * x.scale[at[r]], y[r][c]);
          if (kBias != 0.0f) y[r][c] = fma(scale, set1(-kBias * x.sum[at[r]]), y[r][c]);
        }
    }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(t[r] + first + c * W, y[r][c]);
}

// The digits of A x for `count` <= kLoraRows rows: to[r] is for the row rows[r] of `x`. `next`: the A that is read next, or null.
template <int H>
static void lora_down_int8(const LoraMatrix& m, const Activations& x, const int32_t* rows, int count, float* const* to,
                           const uint8_t* next) {
  alignas(64) float t[kLoraRows][kMaxLoraRanks];
  const int groups = ceil_div(m.cols, kLoraGroup);
  const uint8_t* block = m.a;
  const LoraAhead ahead = {block + m.ranks / 16 * groups * kLoraBlockBytes, next};
  for (int first = 0; first < m.ranks; first += 16, block += groups * kLoraBlockBytes) switch (count) {
      case 1: lora_strip<1, H>(block, groups, ahead, x, rows, t, first); break;
      case 2: lora_strip<2, H>(block, groups, ahead, x, rows, t, first); break;
      case 3: lora_strip<3, H>(block, groups, ahead, x, rows, t, first); break;
      default: lora_strip<4, H>(block, groups, ahead, x, rows, t, first); break;
    }
  for (int r = 0; r < count; r++) {
    for (int i = m.ranks; i < round_up(m.ranks, 32); i++) t[r][i] = 0.0f;
    lora_round(t[r], m.ranks, lora_digits_at(to[r], m.ranks));
  }
}

// N runs of 16 outputs with as many ranks each: y + B t over the ranks that own them.
template <int N>
DW_INLINE void lora_runs_int8(const LoraMatrix& m, int at, const float* t, const float* y, float* out) {
  constexpr int C = 16 / W;
  const LoraRun* run = m.runs + at;
  const uint16_t* scales = (const uint16_t*)m.b + at * 16;
  prefetch(run + 4);  // of the row's next panels
  prefetch(scales + 32);
  const LoraDigits d = lora_digits_at((float*)t, m.ranks);
  const size_t panel = 2 * (size_t)run->ranks * 16;  // of B, about: the row's next one is asked for
  const uint8_t *b[N], *digit[N][2];
  vi sum[N][2][C];
  for (int n = 0; n < N; n++) {
    const int first = run[n].first_rank / 4, end = first + run[n].ranks / 4;
    b[n] = m.b + run[n].offset;
    for (int i = 0; i < 2; i++) {
      digit[n][i] = d.digits[i] + first * kActivationBytes8;
      for (int c = 0; c < C; c++) sum[n][i][c] = start8(d.before[i][end] - d.before[i][first]);
    }
  }
  for (int k = 0; k < run->ranks / 4; k++)
    for (int n = 0; n < N; n++) {
      prefetch(b[n] + k * 64 + panel);
      for (int c = 0; c < C; c++) {
        weight8 w = open8(load_bytes(b[n] + k * 64 + c * W * 4));
        for (int i = 0; i < 2; i++) sum[n][i][c] = dot8(sum[n][i][c], w, digit[n][i] + k * kActivationBytes8);
      }
    }
  for (int n = 0; n < N; n++)
    for (int c = 0; c < C; c++) {
      const vf scale = load_bf16(scales + n * 16 + c * W) * *d.scale;
      const int to = n * 16 + c * W;
      store(out + to, fma(to_float((sum[n][0][c] << 7) + sum[n][1][c]), scale, load(y + to)));
    }
}

// 32 outputs of a panel.
DW_INLINE void lora_panel_int8(const LoraMatrix& m, int p, const float* t, const float* y, float* out) {
  const LoraRun* run = m.runs + 2 * p;
  if (run[0].ranks == run[1].ranks) return lora_runs_int8<2>(m, 2 * p, t, y, out);
  for (int n = 0; n < 2; n++) lora_runs_int8<1>(m, 2 * p + n, t, y + n * 16, out + n * 16);
}

}  // namespace DW_ISA
}  // namespace deepwell
