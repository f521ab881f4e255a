// Matrix products on packed panels: y[row, 32 panel outputs] for tiles of R rows x C vectors of outputs.
//
// One layout serves every shape. At one row the panel is a single stream read at memory speed; at many rows the panel (18 kB at
// K = 576) stays in L1/L2 while tiles of rows pass over it. A tile keeps R * C integer accumulators in registers; the float sums of
// a group (every 32 or 64 columns) are few enough to live in memory. Whatever the tile, each output sees the same operations in
// the same order, so its bits do not depend on the batch.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/gemm_half.h"
#include "kernels/gemm_i8mm.h"
#include "kernels/gemm_int8.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "kernels/tiles.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

constexpr int V = kPanel / W;  // vectors of one panel

// Rows and vectors of a tile. 16 vector registers (AVX2, SSE2) hold 4 x 2 integer accumulators beside weights and temporaries, and 6 x 2
// floating point ones (43 GMAC/s of a core; 4 x 2: 39). 2 x 4 is faster in the first-level cache (int4: 75 against 69);
// in prefill it was no faster, and 5 % slower together with asking for the next panel. 32 registers (AVX512) hold 6 x 2.
constexpr int kTileRows = 6;
template <int S>
#if defined(DW_AVX512)
constexpr int tile_rows = 6;
#else
constexpr int tile_rows = S == kFp32 ? 6 : 4;
#endif
#if defined(DW_NEON)
constexpr int kTileVectors = 4;  // 32 registers of four lanes: 4 x 4 integer accumulators, 6 x 4 floating point ones
#else
constexpr int kTileVectors = V >= 2 ? 2 : 1;
#endif

// Memory is idle while later rows pass over a panel: the next panel is asked for meanwhile. With few passes a few lines come with
// every group: all at once they would fill the core's miss buffers, and the pass would wait (16 rows: 1.05 x). With many passes the
// lines before each are few enough, and asking by groups costs int4 3 %. Two panels do not fit the first-level cache: the next one
// goes to the second (int8, 16 rows: 1.26 x, 8: 1.7 x).
constexpr int kAskingPasses = 8;

struct Ask {
  const uint8_t* at;
  size_t step;  // bytes a group
  Ahead ahead;
};

DW_INLINE void ask_bytes(Ask* ask, size_t bytes) {
  if (ask->ahead == kLater)
    for (size_t i = 0; i < bytes; i += 64) prefetch_later(ask->at + i);
  else
    for (size_t i = 0; i < bytes; i += 64) prefetch(ask->at + i);
  ask->at += bytes;
}

DW_INLINE void ask_group(Ask* ask) { ask_bytes(ask, ask->step); }

// AMX machines have been measured with the first-level cache alone.
DW_INLINE Ahead ahead_of_memory() {
#if defined(DW_TILES)
  if (tile_state.on) return kSoon;
#endif
  return kLater;
}

// int4 products of three rows or more take longer than memory, and wait less for the first-level cache.
template <int S>
DW_INLINE Ahead ahead_of_pass(int rows) {
  return S == kInt8 || (S == kInt4 && rows <= 2) ? ahead_of_memory() : kSoon;
}

template <int R, int C, bool Asking>
DW_INLINE void tile_int8(const Matrix& w, const uint8_t* panel, int c0, const Activations& a, int row, Ahead ahead, Ask* ask,
                         float* out) {
  vf y[R][C] = {};
  for (int g = 0; g < w.groups; g++) {
    if (Asking) ask_group(ask);
    const uint8_t* block = panel + g * w.block_bytes;
    const uint8_t* q = block + kPanel * 2 + c0 * W * 4;
    const uint8_t* x[R];
    vi acc[R][C];
    for (int r = 0; r < R; r++) {
      x[r] = a.bytes + (row + r) * a.row_bytes + g * 16 * kActivationBytes8;
      int32_t sum;
      memcpy(&sum, a.sum + (size_t)(row + r) * a.groups + g, 4);
      for (int c = 0; c < C; c++) acc[r][c] = start8(sum);
    }
#if defined(DW_I8MM)
    if constexpr (R > 1) sum_pairs8<R, C>(q, x, ahead, acc);
    else
#endif
#pragma GCC unroll 4
    for (int i = 0; i < 16; i++) {
      prefetch_row(q + i * 128, ahead);
      weight8 wv[C];
      for (int c = 0; c < C; c++) wv[c] = open8(load_bytes(q + i * 128 + c * W * 4));
      for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) acc[r][c] = dot8(acc[r][c], wv[c], x[r] + i * kActivationBytes8);
    }
    for (int c = 0; c < C; c++) {
      vf d = load_half((const uint16_t*)block + (c0 + c) * W);
      for (int r = 0; r < R; r++)
        y[r][c] = fma(to_float(acc[r][c]), d * a.scale[(size_t)(row + r) * a.groups + g], y[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * kPanel + (c0 + c) * W, y[r][c]);
}

template <int R, int C, bool Asking>
DW_INLINE void tile_int4(const Matrix& w, const uint8_t* panel, int c0, const Activations& a, int row, Ahead ahead, Ask* ask,
                         float* out) {
  vf y[R][C] = {};
  for (int g = 0; g < w.groups; g++) {
    if (Asking) ask_group(ask);
    const uint8_t* block = panel + g * w.block_bytes;
    const uint8_t* q = block + kPanel * 4 + c0 * W * 4;
    const uint8_t* x[R];
    acc4 acc[R][C] = {};
    for (int r = 0; r < R; r++) x[r] = a.bytes + (row + r) * a.row_bytes + g * 32;
#if defined(DW_I8MM)
    if constexpr (R > 1) sum_pairs4<R, C>(q, x, ahead, acc);
    else
#endif
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      prefetch_row(q + i * 128, ahead);
      vi low[C], high[C];
      for (int c = 0; c < C; c++) {
        vi both = load_bytes(q + i * 128 + c * W * 4);
        low[c] = low_nibbles(both);
        high[c] = high_nibbles(both);
      }
      for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c++) acc[r][c] = dot4(acc[r][c], low[c], x[r] + i * 8);
        for (int c = 0; c < C; c++) acc[r][c] = dot4(acc[r][c], high[c], x[r] + i * 8 + 4);
      }
    }
    for (int c = 0; c < C; c++) {
      vf d = load_half((const uint16_t*)block + (c0 + c) * W);
      vf m = load_half((const uint16_t*)block + kPanel + (c0 + c) * W);
      for (int r = 0; r < R; r++) {
        size_t at = (size_t)(row + r) * a.groups + g;
        y[r][c] = fma(to_float(finish4(acc[r][c])), d * a.scale[at], y[r][c]);
        y[r][c] = fma(m, set1(a.sum[at]), y[r][c]);
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * kPanel + (c0 + c) * W, y[r][c]);
}

template <int R, int C>
DW_INLINE void tile_fp32(const Matrix& w, const uint8_t* panel, int c0, const Activations& a, int row, Ahead ahead, float* out) {
  vf y[R][C] = {};
  const float* p = (const float*)panel + c0 * W;
  const float* x[R];
  for (int r = 0; r < R; r++) x[r] = (const float*)(a.bytes + (row + r) * a.row_bytes);
  for (int k = 0; k < w.cols; k++) {
    prefetch_row((const uint8_t*)(p + (size_t)k * kPanel), ahead);
    vf wv[C];
    for (int c = 0; c < C; c++) wv[c] = load(p + (size_t)k * kPanel + c * W);
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) y[r][c] = fma(set1(x[r][k]), wv[c], y[r][c]);
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * kPanel + (c0 + c) * W, y[r][c]);
}

// One or two rows pass over a panel once; more rows need two passes to stay in registers.
template <int S, int R>
constexpr int tile_vectors = R * V <= tile_rows<S> * kTileVectors ? V : kTileVectors;

template <int S, int R, bool Asking>
static void tile(const Matrix& w, const uint8_t* panel, const Activations& a, int row, Ahead ahead, Ask* ask, float* out) {
  constexpr int C = tile_vectors<S, R>;
  for (int c0 = 0; c0 < V; c0 += C, ahead = kNothing) {
    if (S == kInt8) tile_int8<R, C, Asking>(w, panel, c0, a, row, ahead, ask, out);
    if (S == kInt4) tile_int4<R, C, Asking>(w, panel, c0, a, row, ahead, ask, out);
    if (S == kFp32) tile_fp32<R, C>(w, panel, c0, a, row, ahead, out);
    if (S == kBf16) tile_bf16<R, C>(w, panel, c0, a, row, ahead, out);
    if (S == kFp16) tile_fp16<R, C>(w, panel, c0, a, row, ahead, out);
  }
}

template <int S, bool Asking>
DW_INLINE void tile_of(int rows, const Matrix& w, const uint8_t* panel, const Activations& a, int row, Ahead ahead, Ask* ask,
                       float* out) {
  constexpr int most = tile_rows<S>;
  switch (rows) {
    case 1: return tile<S, 1, Asking>(w, panel, a, row, ahead, ask, out);
    case 2: return tile<S, min_of(most, 2), Asking>(w, panel, a, row, ahead, ask, out);
    case 3: return tile<S, min_of(most, 3), Asking>(w, panel, a, row, ahead, ask, out);
    case 4: return tile<S, min_of(most, 4), Asking>(w, panel, a, row, ahead, ask, out);
    case 5: return tile<S, min_of(most, 5), Asking>(w, panel, a, row, ahead, ask, out);
    default: return tile<S, most, Asking>(w, panel, a, row, ahead, ask, out);
  }
}

// Rows [row, end) of one panel; `epilogue(row, panel, y[32])` receives each finished row.
template <int S, class Epilogue>
static void panel_rows(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
#if defined(DW_AVX2)
  if (S == kInt8 && end - row > 1) return int8_panel_rows(w, p, a, row, end, epilogue);
#endif
#if defined(DW_TILES)
  if (S == kInt8 && takes_tiles(end - row)) return tile_panel_rows(w, p, a, row, end, epilogue);
#endif
  const uint8_t* panel = w.data + (size_t)p * w.groups * w.block_bytes;
  alignas(64) float out[kTileRows * kPanel];
  constexpr int most = tile_rows<S>;
  const int passes = ceil_div(end - row, most);
  const size_t panel_bytes = w.groups * w.block_bytes, share = round_up(panel_bytes / passes, 64);
  Ask ask = {panel + panel_bytes, ceil_div(w.block_bytes / passes * tile_vectors<S, most>, V), ahead_of_memory()};
  const bool few = passes <= kAskingPasses || (S == kInt8 && ask.ahead == kLater);
  const bool asking = (S == kInt8 || S == kInt4) && passes > 1 && few;
  Ahead ahead = ahead_of_pass<S>(end - row);
  for (int left = passes; row < end; left--) {
    const int n = ceil_div(end - row, left);  // even passes: two rows alone cannot hide a product (8 rows: 1.1 to 1.5 x)
    if (passes > 1 && !asking) ask_bytes(&ask, share);
    if (asking) tile_of<S, S == kInt8 || S == kInt4>(n, w, panel, a, row, ahead, &ask, out);
    else tile_of<S, false>(n, w, panel, a, row, ahead, &ask, out);
    for (int r = 0; r < n; r++) epilogue(row + r, p, out + r * kPanel);
    row += n;
    ahead = kNothing;
  }
}

template <class Epilogue>
static void any_panel_rows(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
  if (w.scheme == kInt8) panel_rows<kInt8>(w, p, a, row, end, epilogue);
  else if (w.scheme == kInt4) panel_rows<kInt4>(w, p, a, row, end, epilogue);
  else if (w.scheme == kBf16) panel_rows<kBf16>(w, p, a, row, end, epilogue);
  else if (w.scheme == kFp16) panel_rows<kFp16>(w, p, a, row, end, epilogue);
  else panel_rows<kFp32>(w, p, a, row, end, epilogue);
}

// The first share of a product's work items is fixed, so that a thread can prefetch it; the rest is claimed as threads come free. Threads
// with even numbers begin at the front, the others at the back.
struct FirstShare {
  int front, back;  // items of all first shares
  Claim own;
};

DW_INLINE FirstShare first_share(int items, int threads, int tid) {
  if (items < threads) return {items, 0, {min_of(tid, items), min_of(tid + 1, items)}};
  const int count = max_of(items / (2 * threads), 1), at = tid / 2 * count;
  const Claim own = tid % 2 ? Claim{items - at - count, items - at} : Claim{at, at + count};
  return {(threads + 1) / 2 * count, threads / 2 * count, own};
}

constexpr int kRowBlocks = 2;  // that pass over a panel before the next one is read
constexpr int kFirstBytes = 16384;  // about a panel

// Start loading what this thread will read first, of a product of `rows` rows (`gemm_together`). The memory would idle while the activations are quantised.
DW_INLINE void prefetch_first(const Matrix& w, int rows, int together, const Team* team, int tid) {
  const int blocks = ceil_div(rows, kRowBlock), parts = ceil_div(w.panels, together);
  const Claim own = first_share(blocks * parts, team->size, tid).own;
  if (own.first == own.end) return;
  const int rows_from = own.first / (parts * kRowBlocks) * kRowBlocks;
  const int panel = (own.first - rows_from * parts) / min_of(kRowBlocks, blocks - rows_from) * together;
  const uint8_t* at = w.data + (size_t)panel * w.groups * w.block_bytes;
  if (ahead_of_memory() == kSoon)
    for (int i = 0; i < kPrefetchBytes; i += 64) prefetch(at + i);
  else
    for (int i = 0; i < kFirstBytes; i += 64) prefetch_later(at + i);
}

// `run(item)` sees every item of this thread, ascending within a claim. Ends with a barrier, before which `leave()` runs.
template <class Run, class Leave>
static void share_items(int items, Team* team, int tid, const Run& run, const Leave& leave) {
  const FirstShare share = first_share(items, team->size, tid);
  for (Claim c = share.own; c.first < c.end; c = team_claim(team, tid, share.front, items - share.back, 0))
    for (int item = c.first; item < c.end; item++) run(item);
  leave();
  team_barrier(team);
}

template <class Run>
static void share_items(int items, Team* team, int tid, const Run& run) {
  share_items(items, team, tid, run, [] {});
}


// y = W x for rows 0..m, shared among the team; ends with a barrier. A thread computes `together` panels of the same rows in turn, and
// then calls `finish(row, end, panel)` with the first of them. With more blocks of rows at a time weights are read less often, but
// activations leave the second-level cache (prompts of 512 tokens: 8 blocks were 4 % slower).
template <class Epilogue, class Finish>
static void gemm_together(const Matrix& w, const Activations& a, int m, int together, Team* team, int tid, const Epilogue& epilogue,
                          const Finish& finish, const Matrix* next = nullptr) {
  const int blocks = ceil_div(m, kRowBlock), parts = ceil_div(w.panels, together);
  share_items(blocks * parts, team, tid, [&](int item) {
    const int rows_from = item / (parts * kRowBlocks) * kRowBlocks, at = item - rows_from * parts, high = min_of(kRowBlocks, blocks - rows_from);
    const int from = at / high * together, row = (rows_from + at % high) * kRowBlock;
    const int to = min_of(from + together, w.panels), end = min_of(row + kRowBlock, m);
    for (int p = from; p < to; p++) any_panel_rows(w, p, a, row, end, epilogue);
    finish(row, end, from);
  }, [&] {
    if (next) prefetch_first(*next, m, 1, team, tid);
  });
}

template <class Epilogue>
static void gemm(const Matrix& w, const Activations& a, int m, Team* team, int tid, const Epilogue& epilogue) {
  gemm_together(w, a, m, 1, team, tid, epilogue, [](int, int, int) {});
}

}  // namespace DW_ISA
}  // namespace deepwell
