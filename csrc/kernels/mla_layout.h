// Where the arrays of latent attention lie in a step, and which way a row goes.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "common.h"
#include "integers.h"
#include "kernels/arena.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
#include "kernels/mla.h"
#include "kernels/quantize.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kExpandHeads = 8;   // heads of one item of the expanded path, at most
constexpr int kSplitItems = 4;    // runs a thread, from which on pieces need not be split among threads

// Lane groups of one sequence that attend together.
struct LatentRun {
  int32_t first, count, pieces, record;  // `record`: index of the first (piece, group)
};

struct LatentLayout {
  LatentDims dims;
  int a_stride, q_stride;
  float *a, *q;        // [rows][stride]; without q_b the same
  bool split;          // whether pieces of a run are shared among threads
  float* latent_q;     // [absorbed rows][heads][rank]
  float* queries;      // [absorbed rows][lane groups][queries_floats]
  size_t queries_floats, absorb_bytes, attended_bytes;
  uint8_t *absorb, *attended;  // [heads] activations of the absorbed rows for k_absorb, for v_up
  float* records;
  // Of an indexer: its products [rows], and of the absorbed rows lane groups, weights, scores [index_scores_stride] and choices [top_k].
  bool sparse;         // whether any row leaves tokens out
  int index_q_stride, index_k_stride, index_scores_stride;
  float *index_q, *index_k, *index_lanes, *index_weights, *index_scores;
  int32_t* chosen;
  // Of this thread:
  int32_t *role, *absorbed, *absorbed_seq, *prompt_rows;
  LatentRun* runs;
  float *token, *widened, *scores, *own_records, *expanded, *tile;
  float* factors;      // where a sequence remembers
  int8_t* rounded;
  uint8_t *activations, *gathered;
  Softmax* softmax;
};

DW_INLINE bool is_sparse_row(const LatentLayer& a, const Batch& b, int row) {
  return a.indexer && b.positions[row] >= a.indexer->top_k;
}

DW_INLINE int index_groups(const IndexerLayer& x) { return ceil_div(x.heads, kLanes); }

DW_INLINE int lane_groups(const LatentLayer& a) { return ceil_div(a.heads, kLanes); }
DW_INLINE int expand_heads(const LatentLayer& a, int threads) {
  return max_of(1, min_of(kExpandHeads, a.heads / (2 * threads)));
}

// Whether a row attends by expanded keys and values.
DW_INLINE bool is_expanded_row(const LatentLayer& a, const Batch& b, int seq, int row) {
  return (!b.prompt_lengths || b.positions[row] < b.prompt_lengths[seq]) && !is_sparse_row(a, b, row);
}

static LatentLayout latent_layout(const LatentLayer& a, const Batch& b, const KVCache& cache, Arena* arena, int threads,
                                  int tid) {
  LatentLayout l;
  l.dims = latent_dims(cache);
  l.a_stride = a.a.panels * kPanel;
  l.q_stride = a.q_rank ? a.q_b.panels * kPanel : l.a_stride;
  l.a = arena->take<float>((size_t)b.rows * l.a_stride);
  l.q = a.q_rank ? arena->take<float>((size_t)b.rows * l.q_stride) : l.a;
  int generated = 0, most_runs = 0, groups = lane_groups(a), most_tokens = 0;
  size_t split_records = 0;
  l.sparse = false;
  for (int s = 0; s < b.seqs; s++) {
    int rows = 0, sparse = 0, tokens = b.positions[b.seq_starts[s + 1] - 1] + 1;
    for (int row = b.seq_starts[s]; row < b.seq_starts[s + 1]; row++) {
      rows += !is_expanded_row(a, b, s, row);
      sparse += is_sparse_row(a, b, row);
    }
    most_runs += ceil_div((rows - sparse) * groups, kRunUnits) + sparse * ceil_div(groups, kRunUnits);
    generated += rows;
    split_records += (size_t)rows * groups * (memory_pieces(b, s) + pieces_of(tokens));
    if (sparse) l.sparse = true, most_tokens = max_of(most_tokens, tokens);
  }
  // Where few rows are absorbed, their pieces are shared among the threads and merged behind a barrier.
  l.split = most_runs < kSplitItems * threads;
  l.latent_q = arena->take<float>((size_t)generated * a.heads * l.dims.rank);
  l.queries_floats = lane_queries_floats(l.dims);
  l.queries = arena->take<float>((size_t)generated * groups * l.queries_floats);
  l.absorb_bytes = round_up(activations_bytes(a.k_absorb, generated), 64);
  l.attended_bytes = round_up(activations_bytes(a.v_up, generated), 64);
  l.absorb = arena->take<uint8_t>(generated ? a.heads * l.absorb_bytes : 0);
  l.attended = arena->take<uint8_t>(generated ? a.heads * l.attended_bytes : 0);
  l.records = arena->take<float>(l.split ? split_records * record_floats(l.dims) : 0);
  if (const IndexerLayer* x = a.indexer) {
    int index_heads = index_groups(*x) * kLanes, rows = l.sparse ? generated : 0;
    l.index_k_stride = x->k.panels * kPanel, l.index_q_stride = x->q_b.panels * kPanel;
    l.index_scores_stride = round_up(most_tokens, kPieceTokens);
    l.index_k = arena->take<float>((size_t)b.rows * l.index_k_stride);
    l.index_q = arena->take<float>(l.sparse ? (size_t)b.rows * l.index_q_stride : 0);
    l.index_lanes = arena->take<float>((size_t)rows * index_heads * l.dims.index);
    l.index_weights = arena->take<float>((size_t)rows * index_heads);
    l.index_scores = arena->take<float>((size_t)rows * l.index_scores_stride);
    l.chosen = arena->take<int32_t>((size_t)rows * x->top_k);
  }
  int most_rank = 0;
  for (int s = 0; s < b.seqs; s++)
    if (memory_pieces(b, s)) most_rank = max_of(most_rank, b.memories[s]->key_rank);
  // Of a micro-tile the turned queries, the projected ones and the results; the angle; rounded queries and weights.
  size_t factor_floats = (size_t)kQueryTile * (kMaxHeadDim + 2 * most_rank) + kMaxHeadDim + code_scratch_bytes(most_rank) / sizeof(float);
  if (!most_rank) factor_floats = 0;
  bool any_prompt = generated < b.rows;
  int slice = expand_heads(a, threads);
  int kv_floats = kBlockTokens * (a.nope + a.rope + a.value_dim);
  for (int t = 0; t < threads; t++) {
    int32_t* role = arena->take<int32_t>(b.rows);
    int32_t* absorbed = arena->take<int32_t>(2 * (size_t)generated);
    int32_t* prompt_rows = arena->take<int32_t>(any_prompt ? b.rows : 0);
    LatentRun* runs = arena->take<LatentRun>(most_runs);
    float* token = arena->take<float>(max_of(l.dims.all, l.dims.index));
    uint8_t* gathered = arena->take<uint8_t>(l.sparse ? kPieceBlocks * round_up(l.dims.index_bytes, 64) : 0);
    int8_t* rounded = arena->take<int8_t>(l.dims.rank);
    float* widened = arena->take<float>(generated ? kWidenedFloats : 0);
    float* scores = arena->take<float>(generated ? (size_t)kRunUnits * kGroupScores : 0);
    float* own = arena->take<float>(generated && !l.split ? 2 * kRunUnits * record_floats(l.dims) : 0);
    uint8_t* activations = arena->take<uint8_t>(any_prompt ? activations_bytes(a.k_up, kPieceTokens) : 0);
    float* expanded = arena->take<float>(any_prompt ? (size_t)kPieceBlocks * kv_floats : 0);
    float* tile = arena->take<float>((size_t)kQueryTile * max_of(a.value_dim, l.dims.rank));
    float* factors = arena->take<float>(factor_floats);
    Softmax* softmax = arena->take<Softmax>(any_prompt ? (size_t)slice * b.rows : 0);
    if (t != tid) continue;
    l.role = role, l.absorbed = absorbed, l.absorbed_seq = absorbed + generated, l.prompt_rows = prompt_rows, l.runs = runs;
    l.token = token, l.rounded = rounded, l.widened = widened, l.scores = scores, l.own_records = own;
    l.activations = activations, l.gathered = gathered, l.expanded = expanded, l.tile = tile, l.factors = factors, l.softmax = softmax;
  }
  return l;
}

}  // namespace DW_ISA
}  // namespace deepwell
