// Low-rank adapters: y += B (A x), scaling folded into B, for the rows of a batch that have one.
//
// t = A x is taken where a row is at hand in float, just before it is quantised; B t is added in the epilogue of the base product.
// So an adapter costs no barrier and no further pass, but where rows are rounded as they are computed: there it costs the one that
// rounding would. Rows of one adapter are taken up to kLoraRows at a time, since A comes from
// memory. Weights are bytes beside an int8 or int4 base (lora_int8.h), else pairs of bf16 (a shift and a mask widen two) or, beside an
// fp32 base, float32. Every sum is one chain in column or rank order: its bits do not depend on the companions of a row.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/lora_int8.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

// The order in which rows are quantised: runs of at most kLoraRows rows of one adapter. `starts` are offsets into `order`.
struct LoraGroups {
  int32_t *order, *starts;
  int count;
};

DW_INLINE LoraGroups lora_groups(int32_t* memory, size_t rows) {  // of 2 * rows + 1 integers
  return {memory, memory + rows, 0};
}

// The first row of a group, or -1 behind the last.
DW_INLINE int row_of(const LoraGroups& g, int group) { return group < g.count ? g.order[g.starts[group]] : -1; }

// The adapters of one product; `adapter` is null for a batch without any.
struct LoraProduct {
  const Adapter* const* adapters;
  const int32_t* adapter_of;  // [batch rows]: index into `adapters`, -1: none
  const int32_t* index;       // as in `Rows`
  int place;                  // in `Adapter::matrices`
  float* t;                   // [rows][stride]: A x, of all threads or of this one
  int stride;
  uint8_t* bytes;             // of this thread: kLoraRows rows, rounded to int8
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
  uint8_t* bytes;             // of this thread: kLoraRows rows, rounded to int8
  int32_t* rows;              // [pairs and shared rows]: the batch's row of each; of this thread
};

// The matrix at `place` and the rows from `first` on.
DW_INLINE LoraProduct lora_of_expert(const MoeLora& l, int place, int first) {
  return {l.adapters, l.adapter_of, l.rows + first, place, l.t + (size_t)first * l.stride, l.stride, l.bytes, {}};
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

// Lanes of two ranks from memory: bf16 pairs share a 32-bit lane, float32 lanes lie `apart` floats from each other.
template <bool BF16>
DW_INLINE void load_pair(const uint8_t* p, size_t i, size_t apart, vf* even, vf* odd) {
  if (BF16) {
    vi both = load_bytes(p + i * 4);
    *even = (vf)(both << 16);
    *odd = (vf)(both & (int32_t)0xffff0000);
  } else {
    *even = load((const float*)p + i);
    *odd = load((const float*)p + i + apart);
  }
}

// t = A x for R rows and P pairs of ranks; `tails` hold what columns are left after whole vectors, padded with zeros.
template <bool BF16, int R, int P>
DW_INLINE void lora_tile(const LoraMatrix& m, int pair, const float* const* x, float (*tails)[W], float* const* t) {
  vf sum[P][2][R] = {};
  size_t pair_bytes = (size_t)m.padded_cols * (BF16 ? 4 : 8);
  const uint8_t* a = m.a + pair * pair_bytes;
  int whole = m.cols / W * W;
  auto accumulate = [&](int c, const float* const* from, int at) __attribute__((always_inline)) {
    vf v[R];
    for (int r = 0; r < R; r++) v[r] = load(from[r] + at);
    for (int p = 0; p < P; p++) {
      vf even, odd;
      load_pair<BF16>(a + p * pair_bytes, c, m.padded_cols, &even, &odd);
      // The next tile's weights: the hardware does not see several short streams in time.
      prefetch(a + (p + P) * pair_bytes + c * (BF16 ? 4 : 8));
      for (int r = 0; r < R; r++) {
        sum[p][0][r] = fma(even, v[r], sum[p][0][r]);
        sum[p][1][r] = fma(odd, v[r], sum[p][1][r]);
      }
    }
  };
  for (int c = 0; c < whole; c += W) accumulate(c, x, c);
  if (whole < m.cols) {
    const float* rest[R];
    for (int r = 0; r < R; r++) rest[r] = tails[r];
    accumulate(whole, rest, 0);
  }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < 2; h++) t[r][2 * (pair + p) + h] = reduce_add(sum[p][h][r]);
}

template <bool BF16, int R>
static void lora_rows(const LoraMatrix& m, const float* const* x, float* const* t) {
  float tails[R][W] = {};
  int whole = m.cols / W * W;
  for (int r = 0; r < R; r++) memcpy(tails[r], x[r] + whole, (m.cols - whole) * sizeof(float));
  constexpr int P = R <= 2 ? 2 : 1;  // 8 accumulators: two chains hide the latency of the others, and 16 registers hold them
  int pair = 0;
  for (; pair + P <= m.ranks / 2; pair += P) lora_tile<BF16, R, P>(m, pair, x, tails, t);
  for (; pair < m.ranks / 2; pair++) lora_tile<BF16, R, 1>(m, pair, x, tails, t);
}

template <bool BF16>
static void lora_down(const LoraMatrix& m, int rows, const float* const* x, float* const* t) {
  switch (rows) {
    case 1: lora_rows<BF16, 1>(m, x, t); break;
    case 2: lora_rows<BF16, 2>(m, x, t); break;
    case 3: lora_rows<BF16, 3>(m, x, t); break;
    default: lora_rows<BF16, 4>(m, x, t); break;
  }
}

// A matrix of so many columns whose activations are int8.
DW_INLINE Matrix int8_like(int cols) {
  Matrix w = {};
  w.cols = cols, w.scheme = kInt8, w.group = kLoraGroup, w.groups = ceil_div(cols, kLoraGroup);
  return w;
}

// Are rows that `scheme` has rounded all that A takes?
DW_INLINE bool reads_rounded(const LoraMatrix& m, Scheme scheme) {
  return m.dtype == kLoraInt8 && (scheme == kInt8 || (kLoraReadsInt4 && scheme == kInt4));
}

// Start loading the A that `lora_project` will read first.
DW_INLINE void lora_prefetch(const LoraProduct& l, int row) {
  const LoraMatrix* m = lora_of(l, row);
  if (!m) return;
  prefetch(m + 1);
  for (int at = 0; at < kPrefetchBytes; at += 64) prefetch(m->a + at);
  for (int at = 0; at < 512; at += 64) prefetch_later(m->b + at), prefetch_later((const uint8_t*)m->runs + at);
}

// t = A x of up to kLoraRows rows with one adapter: rows[r] has the columns x[r], which `rounded`, unless null, has as `scheme` wants them.
// Where A reads them so, x may be null. `then`: a row of those that follow, or -1.
DW_INLINE void lora_project(const LoraProduct& l, const int32_t* rows, int count, const float* const* x, Scheme scheme,
                            const Activations* rounded, int then = -1) {
  const LoraMatrix* m = lora_of(l, rows[0]);
  if (!m) return;
  float* t[kLoraRows];
  for (int r = 0; r < count; r++) t[r] = l.t + (size_t)rows[r] * l.stride;
  if (m->dtype == kLoraInt8) {
    const LoraMatrix* after = then < 0 ? nullptr : lora_of(l, then);
    const uint8_t* next = after ? after->a : nullptr;
    if (rounded && reads_rounded(*m, scheme))
      return scheme == kInt8 ? lora_down_int8<1>(*m, *rounded, rows, count, t, next)
                             : lora_down_int8<2>(*m, *rounded, rows, count, t, next);
    const Matrix like = int8_like(m->cols);
    const Activations own = activations_at(l.bytes, like, kLoraRows);
    const int32_t each[kLoraRows] = {0, 1, 2, 3};
    for (int r = 0; r < count; r++) quantize_row(like, x[r], own, r);
    lora_down_int8<1>(*m, own, each, count, t, next);
  } else if (m->dtype == kLoraBf16) {
    lora_down<true>(*m, count, x, t);
  } else {
    lora_down<false>(*m, count, x, t);
  }
}

// 16 outputs: y + B t over the ranks that own them. Even and odd ranks are two chains.
template <bool BF16>
DW_INLINE void lora_run(const LoraMatrix& m, const LoraRun& run, const float* t, const float* y, float* out) {
  constexpr int C = 16 / W;
  vf even[C] = {}, odd[C] = {};
  const uint8_t* b = m.b + run.offset;
  const size_t panel = (size_t)run.ranks * (BF16 ? 64 : 128);  // of B, about: the row's next one is asked for
  t += run.first_rank;
  for (int k = 0; k < run.ranks; k += 2, b += BF16 ? 64 : 128) {
    prefetch(b + panel);
    for (int c = 0; c < C; c++) {
      vf low, high;
      load_pair<BF16>(b, c * W, 16, &low, &high);
      even[c] = fma(low, set1(t[k]), even[c]);
      odd[c] = fma(high, set1(t[k + 1]), odd[c]);
    }
  }
  for (int c = 0; c < C; c++) store(out + c * W, load(y + c * W) + (even[c] + odd[c]));
}

// The outputs of row `i` of panel `p` with its adapter's share: `y` itself where it has none, else written to `sum`.
DW_INLINE const float* lora_add(const LoraProduct& l, int i, int p, const float* y, float* sum) {
  const LoraMatrix* m = lora_of(l, i);
  if (!m) return y;
  const LoraRun* run = m->runs + p * (kPanel / 16);
  const float* t = l.t + (size_t)i * l.stride;
  if (m->dtype == kLoraInt8) {
    lora_panel_int8(*m, p, t, y, sum);
    return sum;
  }
  for (int h = 0; h < kPanel / 16; h++)
    if (m->dtype == kLoraBf16) lora_run<true>(*m, run[h], t, y + h * 16, sum + h * 16);
    else lora_run<false>(*m, run[h], t, y + h * 16, sum + h * 16);
  return sum;
}

}  // namespace DW_ISA
}  // namespace deepwell
