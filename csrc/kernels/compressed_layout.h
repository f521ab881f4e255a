// DeepSeek-V4's cache pages, and where the arrays of a step of its attention lie.
//
// A block holds the entries that end in its 16 tokens. A slot holds of a block's single tokens their vectors, and what entries are made of
// (float32): only blocks near the end of a sequence have one. Rows are padded to 16 numbers with zeros. Layers differ in what they
// hold, so each has sizes of its own (`CompressedPage`).
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "common.h"
#include "integers.h"
#include "kernels/arena.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kHeadGroup = 8;  // heads that share a pass over keys

DW_INLINE int padded16(int n) { return round_up(n, 16); }
DW_INLINE int index_lanes(int heads) { return round_up(heads, 2 * W); }  // heads of the indexer, padded
DW_INLINE int parts_wide(const CompressorPage& c) { return padded16(c.width) * (c.overlap ? 2 : 1); }

struct CompressedLayout {
  int a_stride, q_stride, index_stride, low_stride, scores_stride;
  float *a, *q;            // [rows][stride]
  float *index_q, *index_weights;  // [rows][index_stride]: by dimension, heads in the lanes; [rows][lanes]
  float* low;              // [rows][low_stride]
  float* index_scores;     // [rows][scores_stride]
  int32_t* chosen;         // [rows][top_k]
  uint8_t* grouped;        // quantised, by groups of heads
  size_t grouped_bytes;
  float *scores, *part, *total;  // of this thread: [kHeadGroup][kPieceTokens], [kHeadGroup][head_dim padded] twice
  float* row;              // of this thread
};

static void widest(const CompressedLayer& a, CompressedLayout* t) {
  t->a_stride = max_of(t->a_stride, a.a.panels * kPanel);
  t->q_stride = max_of(t->q_stride, a.heads * padded16(a.head_dim));
  if (a.has_index) t->index_stride = max_of(t->index_stride, index_lanes(a.index_heads) * padded16(a.index.page.width));
  t->low_stride = max_of(t->low_stride, round_up(a.o_b.cols, kPanel));
}

static CompressedLayout compressed_layout(const Model& m, const Batch& b, Arena* arena, int threads, int tid) {
  CompressedLayout t = {};
  int head_dim = 0, heads = 0, top_k = 0;
  size_t grouped = 0, scores = 0;
  int longest = 0;
  for (int s = 0; s < b.seqs; s++) longest = max_of(longest, b.positions[b.seq_starts[s + 1] - 1] + 1);
  for (int i = 0; i < m.num_layers; i++) {
    const CompressedLayer* a = m.layers[i].compressed;
    if (!a) continue;
    widest(*a, &t);
    head_dim = max_of(head_dim, a->head_dim);
    grouped = max_of(grouped, a->o_groups * round_up(activations_bytes(a->o_a, b.rows), 64));
    if (!a->has_index) continue;
    heads = max_of(heads, index_lanes(a->index_heads));
    if (longest / a->index.page.rate > a->top_k) scores = max_of<size_t>(scores, round_up(longest / a->index.page.rate, 16)), top_k = max_of(top_k, a->top_k);
  }
  t.scores_stride = (int)scores;
  t.a = arena->take<float>((size_t)b.rows * t.a_stride);
  t.q = arena->take<float>((size_t)b.rows * t.q_stride);
  t.index_q = arena->take<float>((size_t)b.rows * t.index_stride);
  t.index_weights = arena->take<float>((size_t)b.rows * heads);
  t.low = arena->take<float>((size_t)b.rows * t.low_stride);
  t.index_scores = arena->take<float>(b.rows * scores);
  t.chosen = arena->take<int32_t>((size_t)b.rows * top_k);
  t.grouped = arena->take<uint8_t>(grouped);
  const int wide = padded16(head_dim);
  for (int of = 0; of < threads; of++) {
    float* scores_of = arena->take<float>((size_t)kHeadGroup * kPieceTokens);
    float* part = arena->take<float>((size_t)kHeadGroup * wide);
    float* total = arena->take<float>((size_t)kHeadGroup * wide);
    float* row = arena->take<float>(2 * (size_t)max_of(wide, max_of(t.q_stride, t.index_stride)) + round_up(m.hidden, 16));
    if (of == tid) t.scores = scores_of, t.part = part, t.total = total, t.row = row;
  }
  return t;
}

}  // namespace DW_ISA
}  // namespace deepwell
