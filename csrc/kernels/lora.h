// Low-rank adapters: y += B (A x), scaling folded into B, for the rows of a batch that have one.
//
// t = A x is taken where a row is at hand in float, just before it is quantised; B t is added in the epilogue of the base product.
// So an adapter costs no barrier and no further pass. Rows of one adapter are taken up to kLoraRows at a time, since A comes from
// memory. Weights are int8 with a scale for each rank and 64 columns of A and for each output of B; pairs of bf16 (a shift and a
// mask widen two) beside a base of 16 bits; float32 beside an fp32 base. They are multiplied as floats. Every sum is one chain in
// column or rank order: its bits do not depend on the companions of a row.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kLoraRows = 4;  // rows of one adapter whose A x is taken together

// The order in which rows are quantised: runs of at most kLoraRows rows of one adapter. `starts` are offsets into `order`.
struct LoraGroups {
  int32_t *order, *starts;
  int count;
};

DW_INLINE LoraGroups lora_groups(int32_t* memory, size_t rows) {  // of 2 * rows + 1 integers
  return {memory, memory + rows, 0};
}

// The adapters of one product; `adapter` is null for a batch without any.
struct LoraProduct {
  const Adapter* const* adapters;
  const int32_t* adapter_of;  // [batch rows]: index into `adapters`, -1: none
  const int32_t* index;       // as in `Rows`
  int place;                  // in `Adapter::matrices`
  float* t;                   // [rows][stride]: A x, of all threads or of this one
  int stride;
  LoraGroups groups;
};

DW_INLINE const LoraMatrix* lora_of(const LoraProduct& l, int i) {
  if (!l.adapter_of) return nullptr;
  int slot = l.adapter_of[l.index ? l.index[i] : i];
  if (slot < 0) return nullptr;
  const LoraMatrix* m = l.adapters[slot]->matrices + l.place;
  return m->ranks ? m : nullptr;
}

// The adapters of a mixture: its rows are (row, expert) pairs, sorted by expert behind the rows of the shared one.
struct MoeLora {
  const Adapter* const* adapters;
  const int32_t* adapter_of;  // null for a batch without any
  LoraPlaces places;
  float* t;                   // [pairs and shared rows][stride]
  int stride;
  int32_t* rows;              // [pairs and shared rows]: the batch's row of each; of this thread
};

// The matrix at `place` and the rows from `first` on.
DW_INLINE LoraProduct lora_of_expert(const MoeLora& l, int place, int first) {
  return {l.adapters, l.adapter_of, l.rows + first, place, l.t + (size_t)first * l.stride, l.stride, {}};
}

// Rows sorted by adapter, the rows without one first, in row order each.
static void group_rows(const Batch& b, const int32_t* index, int rows, LoraGroups* groups) {
  int n = 0;
  groups->count = 0;
  for (int slot = -1; slot < b.adapters_count; slot++) {
    int first = n;
    for (int i = 0; i < rows; i++)
      if (b.adapter_of[index ? index[i] : i] == slot) {
        if ((n - first) % kLoraRows == 0) groups->starts[groups->count++] = n;
        groups->order[n++] = i;
      }
  }
  groups->starts[groups->count] = n;
}

// Bytes of the scales of two ranks of A (int8).
DW_INLINE size_t lora_scale_bytes(int cols) { return round_up((size_t)ceil_div(cols, kLoraGroup) * 4, 16); }

// Bytes of 16 columns, or outputs, of two ranks.
template <LoraDtype D>
constexpr int lora_lane_bytes = D == kLoraInt8 ? 32 : D == kLoraBf16 ? 64 : 128;

// Lanes i.. of two ranks from memory: bytes lie 16 of one rank and 16 of the other, bf16 pairs share a 32-bit lane, float32 lanes lie
// `apart` floats from each other.
template <LoraDtype D>
DW_INLINE void load_pair(const uint8_t* p, size_t i, size_t apart, vf* even, vf* odd) {
  if (D == kLoraInt8) {
    const int8_t* at = (const int8_t*)p + i / 16 * 32 + i % 16;
    *even = to_float(load_int8(at));
    *odd = to_float(load_int8(at + 16));
  } else if (D == kLoraBf16) {
    vi both = load_bytes(p + i * 4);
    *even = (vf)(both << 16);
    *odd = (vf)(both & (int32_t)0xffff0000);
  } else {
    *even = load((const float*)p + i);
    *odd = load((const float*)p + i + apart);
  }
}

DW_INLINE float lora_scale(const uint8_t* p) {
  uint16_t bits;
  memcpy(&bits, p, 2);
  uint32_t wide = (uint32_t)bits << 16;
  float scale;
  memcpy(&scale, &wide, 4);
  return scale;
}

// t = A x for R rows and P pairs of ranks; `tails` hold what columns are left after whole vectors, padded with zeros.
template <LoraDtype D, int R, int P>
DW_INLINE void lora_tile(const LoraMatrix& m, int pair, const float* const* x, float (*tails)[W], float* const* t) {
  vf sum[P][2][R] = {};
  const size_t scales = D == kLoraInt8 ? lora_scale_bytes(m.cols) : 0;
  const size_t pair_bytes = scales + (size_t)m.padded_cols / 16 * lora_lane_bytes<D>;
  const uint8_t* a = m.a + pair * pair_bytes;
  const int whole = m.cols / W * W;
  vf scale[P][2];
  auto accumulate = [&](int c, const float* const* from, int at) __attribute__((always_inline)) {
    vf v[R];
    for (int r = 0; r < R; r++) v[r] = load(from[r] + at);
    for (int p = 0; p < P; p++) {
      const uint8_t* lanes = a + p * pair_bytes + scales;
      vf even, odd;
      load_pair<D>(lanes, c, m.padded_cols, &even, &odd);
      if (D == kLoraInt8) even *= scale[p][0], odd *= scale[p][1];
      // The next tile's weights: the hardware does not see several short streams in time.
      prefetch(lanes + P * pair_bytes + c / 16 * lora_lane_bytes<D> + c % 16 * (lora_lane_bytes<D> / 16));
      for (int r = 0; r < R; r++) {
        sum[p][0][r] = fma(even, v[r], sum[p][0][r]);
        sum[p][1][r] = fma(odd, v[r], sum[p][1][r]);
      }
    }
  };
  for (int first = 0; first < m.cols; first += kLoraGroup) {
    if (D == kLoraInt8)
      for (int p = 0; p < P; p++)
        for (int h = 0; h < 2; h++) scale[p][h] = set1(lora_scale(a + p * pair_bytes + first / kLoraGroup * 4 + h * 2));
    const int end = min_of(first + kLoraGroup, whole);
    for (int c = first; c < end; c += W) accumulate(c, x, c);
    if (whole < m.cols && whole < first + kLoraGroup) {
      const float* rest[R];
      for (int r = 0; r < R; r++) rest[r] = tails[r];
      accumulate(whole, rest, 0);
    }
  }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < 2; h++) t[r][2 * (pair + p) + h] = reduce_add(sum[p][h][r]);
}

template <LoraDtype D, int R>
static void lora_rows(const LoraMatrix& m, const float* const* x, float* const* t) {
  float tails[R][W] = {};
  int whole = m.cols / W * W;
  for (int r = 0; r < R; r++) memcpy(tails[r], x[r] + whole, (m.cols - whole) * sizeof(float));
  constexpr int P = R <= 2 ? 2 : 1;  // 8 accumulators: two chains hide the latency of the others, and 16 registers hold them
  int pair = 0;
  for (; pair + P <= m.ranks / 2; pair += P) lora_tile<D, R, P>(m, pair, x, tails, t);
  for (; pair < m.ranks / 2; pair++) lora_tile<D, R, 1>(m, pair, x, tails, t);
}

template <LoraDtype D>
static void lora_down(const LoraMatrix& m, int rows, const float* const* x, float* const* t) {
  switch (rows) {
    case 1: lora_rows<D, 1>(m, x, t); break;
    case 2: lora_rows<D, 2>(m, x, t); break;
    case 3: lora_rows<D, 3>(m, x, t); break;
    default: lora_rows<D, 4>(m, x, t); break;
  }
}

// Start loading the A that `lora_project` will read first.
DW_INLINE void lora_prefetch(const LoraProduct& l, int row) {
  const LoraMatrix* m = lora_of(l, row);
  if (m)
    for (int at = 0; at < kPrefetchBytes; at += 64) prefetch(m->a + at);
}

// t = A x of up to kLoraRows rows with one adapter: rows[r] has the columns x[r].
DW_INLINE void lora_project(const LoraProduct& l, const int32_t* rows, int count, const float* const* x) {
  const LoraMatrix* m = lora_of(l, rows[0]);
  if (!m) return;
  float* t[kLoraRows];
  for (int r = 0; r < count; r++) t[r] = l.t + (size_t)rows[r] * l.stride;
  if (m->dtype == kLoraInt8) lora_down<kLoraInt8>(*m, count, x, t);
  else if (m->dtype == kLoraBf16) lora_down<kLoraBf16>(*m, count, x, t);
  else lora_down<kLoraFp32>(*m, count, x, t);
}

// 16 outputs: y + B t over the ranks that own them. Even and odd ranks are two chains.
template <LoraDtype D>
DW_INLINE void lora_run(const LoraMatrix& m, const LoraRun& run, const float* t, const float* y, float* out) {
  constexpr int C = 16 / W, kBytes = lora_lane_bytes<D>, kScales = D == kLoraInt8 ? kLoraRunScales : 0;
  vf even[C] = {}, odd[C] = {};
  const uint8_t *scales = m.b + run.offset, *b = scales + kScales;
  const size_t panel = 2 * kScales + (size_t)run.ranks * kBytes;  // of B, about: the row's next one is asked for
  t += run.first_rank;
  for (int k = 0; k < run.ranks; k += 2, b += kBytes) {
    prefetch(b + panel);
    for (int c = 0; c < C; c++) {
      vf low, high;
      load_pair<D>(b, c * W, 16, &low, &high);
      even[c] = fma(low, set1(t[k]), even[c]);
      odd[c] = fma(high, set1(t[k + 1]), odd[c]);
    }
  }
  for (int c = 0; c < C; c++) {
    vf sum = even[c] + odd[c];
    if (D == kLoraInt8) sum = sum * load_bf16((const uint16_t*)scales + c * W);
    store(out + c * W, load(y + c * W) + sum);
  }
}

// The outputs of row `i` of panel `p` with its adapter's share: `y` itself where it has none, else written to `sum`.
DW_INLINE const float* lora_add(const LoraProduct& l, int i, int p, const float* y, float* sum) {
  const LoraMatrix* m = lora_of(l, i);
  if (!m) return y;
  const LoraRun* run = m->runs + p * (kPanel / 16);
  const float* t = l.t + (size_t)i * l.stride;
  for (int h = 0; h < kPanel / 16; h++)
    if (m->dtype == kLoraInt8) lora_run<kLoraInt8>(*m, run[h], t, y + h * 16, sum + h * 16);
    else if (m->dtype == kLoraBf16) lora_run<kLoraBf16>(*m, run[h], t, y + h * 16, sum + h * 16);
    else lora_run<kLoraFp32>(*m, run[h], t, y + h * 16, sum + h * 16);
  return sum;
}

}  // namespace DW_ISA
}  // namespace deepwell
