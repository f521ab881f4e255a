// What the layers of a decoder's step share: where its arrays lie, and the rows before and behind a product.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "common.h"
#include "integers.h"
#include "kernels/arena.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
#include "kernels/compressed_layout.h"
#include "kernels/gemm.h"
#include "kernels/lora.h"
#include "kernels/mla_layout.h"
#include "kernels/moe.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kPrivateRows = 2;    // up to here activations are quantised by every thread for itself
constexpr int kActPart = 64;       // numbers between gate_up and down that a thread computes and rounds in one go: a group, or two
constexpr int kPartPanels = kActPart / (kPanel / 2);
constexpr int kOutputRows = 128;   // rows of the LM head computed together
constexpr int kTileVectors96 = kMaxGroup; // query vectors that share one gathered piece in prefill
constexpr int kFewVectors = 72;    // of a KV head: up to here a sequence's rows are split over pieces as one row is

// Where everything lies in the workspace. Computed by every thread alike.
struct Layout {
  size_t used;
  int tid;
  int hidden_stride, qkv_stride, attention_stride, act_stride;
  float *x, *qkv, *attention, *act;
  uint8_t *shared_activations, *private_activations;
  uint8_t* next_activations;              // of the product behind one that reads the shared ones
  float *row, *scratch, *tile, *factors;  // of this thread; `row` holds kLoraRows rows of row_floats
  size_t row_floats;
  int lora_stride;
  uint8_t* lora_bytes;                // of this thread: kLoraRows rows, rounded to int8
  float *shared_lora, *private_lora;  // [rows][lora_stride], [kPrivateRows][lora_stride]
  LoraGroups groups, live_groups;     // of this thread: all rows, the live ones
  float* partials;              // decode: [items][group][head_dim + 2]
  float* best_value;            // [threads, outputs]
  int32_t* best_index;          // [threads, outputs]
  float* lse;                   // [kOutputRows, head panels]{max, sum}
  float* target_logit;          // [kOutputRows]
  LatentLayout latent;
  float* streams;               // [rows][streams][hidden_stride] where there are several
  float* kept_mixes;            // [rows][kMaxMixes]: of the layer that computes
  CompressedLayout compressed;
  uint8_t* moe;                 // MoeSpace
  float* moe_lora;              // [pairs and shared rows of a mixture][lora_stride]
  int32_t* moe_rows;            // of this thread, as many
};

DW_INLINE bool is_decode(const Batch& b) { return b.rows == b.seqs; }

// Pieces that the rows of a sequence attend to: those of its memory, then those of its pages.
DW_INLINE int all_pieces(const Batch& b, int s) {
  return memory_pieces(b, s) + pieces_of(b.positions[b.seq_starts[s + 1] - 1] + 1);
}

static int decode_items(const Batch& b, int kv_heads) {
  int items = 0;
  for (int s = 0; s < b.seqs; s++) items += all_pieces(b, s) * kv_heads;
  return items;
}

// Query vectors of all sequences, pieces and KV heads where every sequence has few rows, as in speculation; 0 elsewhere.
static size_t few_row_vectors(const Batch& b, int kv_heads, int group) {
  size_t vectors = 0;
  for (int s = 0; s < b.seqs; s++) {
    int rows = b.seq_starts[s + 1] - b.seq_starts[s];
    if (rows * group > kFewVectors) return 0;
    vectors += (size_t)all_pieces(b, s) * kv_heads * rows * group;
  }
  return vectors;
}

// Can rows be rounded for `w` in parts of `numbers` before adapters see them?
static bool rounds_parts(const Matrix& w, int numbers, const Batch& b, int place) {
  if (!quantizes_parts(w, numbers)) return false;
  for (int i = 0; i < b.adapters_count; i++) {
    const LoraMatrix& m = b.adapters[i]->matrices[place];
    if (m.ranks && !reads_rounded(m, w.scheme)) return false;
  }
  return true;
}

static Layout layout(const Model& m, const Batch& b, const KVCache& cache, const Outputs& out, uint8_t* base, int threads,
                     int tid) {
  Layout l;
  Arena arena(base);
  l.tid = tid;
  l.hidden_stride = round_up(m.hidden, kPanel);
  l.qkv_stride = l.attention_stride = l.act_stride = 0;
  size_t per_row = activation_row_bytes(m.head), groups = m.head.groups;
  int group = 1, head_dim = cache.head_dim, lora_cols = m.hidden;
  bool rounds = false, keeps_floats = false;  // between gate_up and down
  const LatentLayer* latent = nullptr;  // all have the same shape
  for (int i = 0; i < m.num_layers; i++) {
    const Matrix* matrices[5] = {};
    if (const AttentionLayer* a = m.layers[i].attention) {
      l.qkv_stride = max_of(l.qkv_stride, a->qkv.panels * kPanel);
      l.attention_stride = max_of(l.attention_stride, round_up(a->heads * a->head_dim, 64));
      group = max_of(group, a->heads / a->kv_heads);
      matrices[0] = &a->qkv, matrices[1] = &a->o;
    } else if (const LatentLayer* a = m.layers[i].latent) {
      latent = a;
      l.attention_stride = max_of(l.attention_stride, round_up(max_of(a->heads * a->value_dim, a->q_rank), 64));
      matrices[0] = &a->a, matrices[1] = &a->o, matrices[2] = a->q_rank ? &a->q_b : nullptr;
      if (a->indexer) matrices[3] = &a->indexer->k, matrices[4] = &a->indexer->q_b;
    } else if (const CompressedLayer* a = m.layers[i].compressed) {
      l.attention_stride = max_of(l.attention_stride, round_up(max_of(a->heads * a->head_dim, max_of(a->q_rank, a->o_b.cols)), 64));
      matrices[0] = &a->a, matrices[1] = &a->q_b, matrices[2] = &a->o_b;
    } else if (const MoeLayer* e = m.layers[i].moe) {
      lora_cols = max_of(lora_cols, max_of(e->down.cols, e->shared ? e->shared_down.cols : 0));
      continue;  // has a space of its own
    } else {
      const MlpLayer* p = m.layers[i].mlp;
      l.act_stride = max_of(l.act_stride, round_up(p->gate_up.panels * kPanel / 2, 64));
      if (rounds_parts(p->down, kActPart, b, m.layers[i].lora.down)) rounds = true;
      else keeps_floats = true;
      matrices[0] = &p->gate_up, matrices[1] = &p->down;
    }
    for (const Matrix* w : matrices) {
      if (!w) continue;
      per_row = max_of<size_t>(per_row, activation_row_bytes(*w));
      groups = max_of<size_t>(groups, w->groups);
      lora_cols = max_of(lora_cols, w->cols);
    }
  }
  if (m.join) {
    per_row = max_of<size_t>(per_row, activation_row_bytes(m.join->proj));  // as wide as, or wider than, state_proj
    groups = max_of<size_t>(groups, m.join->proj.groups);
  }
  per_row += 2 * round_up(groups * sizeof(float), 64);
  l.x = arena.take<float>((size_t)b.rows * l.hidden_stride);
  l.qkv = arena.take<float>((size_t)b.rows * l.qkv_stride);
  l.attention = arena.take<float>((size_t)b.rows * l.attention_stride);
  l.act = arena.take<float>((size_t)(keeps_floats ? b.rows : min_of(b.rows, kPrivateRows)) * l.act_stride);
  const int quantised = b.rows * (m.join && m.streams ? m.streams->streams : 1);  // rows of a product at most
  l.shared_activations = arena.take<uint8_t>((size_t)max_of(quantised, min_of(b.outputs, kOutputRows)) * per_row + 128);
  l.next_activations = arena.take<uint8_t>(rounds ? (size_t)b.rows * per_row + 128 : 0);
  l.row_floats = round_up(max_of(m.join ? 2 * m.hidden : m.hidden, l.attention_stride), 16);
  l.lora_stride = 0;
  for (int i = 0; i < b.adapters_count; i++) l.lora_stride = max_of(l.lora_stride, lora_floats(b.adapters[i]->most_ranks));
  l.shared_lora = arena.take<float>((size_t)b.rows * l.lora_stride);
  size_t grouped = b.adapter_of ? 2 * (size_t)b.rows + 1 : 0;
  const size_t lora_bytes = b.adapter_of ? activations_bytes(int8_like(lora_cols), kLoraRows) : 0;
  size_t scratch_floats = round_up(attention_scratch_floats(head_dim), 16);
  int vectors = max_of(kTileVectors96, group);
  size_t tile_floats = round_up((size_t)(vectors + kQueryTile + group + 1) * head_dim + 2 * vectors, 16);
  // Of a micro-tile the turned queries, the projected ones, the results before and behind the basis; the angle; rounded queries and weights.
  size_t factor_floats = (size_t)kQueryTile * 4 * kMaxHeadDim + kMaxHeadDim + code_scratch_bytes(kMaxHeadDim) / sizeof(float);
  for (int t = 0; t < threads; t++) {
    uint8_t* activations = arena.take<uint8_t>(kPrivateRows * per_row + 128);
    float* row = arena.take<float>(kLoraRows * l.row_floats);
    float* lora = arena.take<float>((size_t)kPrivateRows * l.lora_stride);
    uint8_t* rounded = arena.take<uint8_t>(lora_bytes);
    int32_t* groups = arena.take<int32_t>(grouped);
    int32_t* live_groups = arena.take<int32_t>(grouped);
    float* scratch = arena.take<float>(scratch_floats);
    float* tile = arena.take<float>(tile_floats);
    float* factors = arena.take<float>(b.memories ? factor_floats : 0);
    if (t == tid) l.private_activations = activations, l.row = row, l.scratch = scratch, l.tile = tile;
    if (t == tid) l.factors = factors, l.lora_bytes = rounded;
    if (t == tid) l.private_lora = lora, l.groups = lora_groups(groups, b.rows), l.live_groups = lora_groups(live_groups, b.rows);
  }
  size_t partials = is_decode(b) ? (size_t)decode_items(b, cache.kv_heads) * group : few_row_vectors(b, cache.kv_heads, group);
  l.partials = arena.take<float>(partials * (head_dim + 2));
  l.best_value = arena.take<float>((size_t)threads * b.outputs);
  l.best_index = arena.take<int32_t>((size_t)threads * b.outputs);
  l.lse = arena.take<float>(out.target_logprobs ? (size_t)kOutputRows * m.head.panels * 2 : 0);
  l.target_logit = arena.take<float>(kOutputRows);
  if (latent) l.latent = latent_layout(*latent, b, cache, &arena, threads, tid);
  const size_t streams = m.streams ? (size_t)b.rows * m.streams->streams * l.hidden_stride : 0;
  l.streams = arena.take<float>(streams);
  l.kept_mixes = arena.take<float>(m.streams ? (size_t)b.rows * kMaxMixes : 0);
  if (cache.pages) l.compressed = compressed_layout(m, b, &arena, threads, tid);
  l.moe = arena.take<uint8_t>(moe_bytes(m, b.rows, threads));
  size_t pairs = 0;
  for (int i = 0; b.adapter_of && i < m.num_layers; i++)
    if (const MoeLayer* e = m.layers[i].moe) pairs = max_of<size_t>(pairs, (size_t)b.rows * (e->top_k + e->shared));
  l.moe_lora = arena.take<float>(pairs * l.lora_stride);
  for (int t = 0; t < threads; t++) {
    int32_t* rows = arena.take<int32_t>(pairs);
    if (t == tid) l.moe_rows = rows;
  }
  l.used = arena.used();
  return l;
}

// The rows `source(row, scratch)` quantised for `w`: by each thread for itself when few, shared and behind a barrier else. The product
// will take panels `together`.
template <class Source>
static Activations quantize_rows(const Matrix& w, int rows, const LoraProduct& lora, const Layout& l, Team* team,
                                 const Source& source, int together = 1) {
  prefetch_first(w, rows, together, team, l.tid);
  if (rows <= kPrivateRows) {
    Activations a = activations_at(l.private_activations, w, rows);
    for (int32_t r = 0; r < rows; r++) {
      lora_prefetch(lora, r);
      const float* x = source(r, l.row);
      quantize_row(w, x, a, r);
      lora_project(lora, &r, 1, &x, w.scheme, &a);
    }
    return a;
  }
  Activations a = activations_at(l.shared_activations, w, rows);
  if (lora.adapter_of) {
    for (int group = team_next(team, 1), then; group < lora.groups.count; group = then) {
      then = team_next(team, 1);
      const int32_t* order = lora.groups.order + lora.groups.starts[group];
      int n = lora.groups.starts[group + 1] - lora.groups.starts[group];
      const float* x[kLoraRows];
      lora_prefetch(lora, order[0]);
      for (int r = 0; r < n; r++) {
        x[r] = source(order[r], l.row + r * l.row_floats);
        quantize_row(w, x[r], a, order[r]);
      }
      lora_project(lora, order, n, x, w.scheme, &a, row_of(lora.groups, then));
    }
    team_barrier(team);
    return a;
  }
  for (Claim c; (c = team_claim(team, l.tid, 0, rows, 4)).first < c.end;)
    for (int r = c.first; r < c.end; r++) quantize_row(w, source(r, l.row), a, r);
  team_barrier(team);
  return a;
}

// A x of every row, which has been rounded already; as in `quantize_rows`.
static void project_rounded(const Matrix& w, const Activations& a, int rows, const LoraProduct& lora, Team* team) {
  if (!lora.adapter_of) return;
  if (rows <= kPrivateRows) {
    for (int32_t r = 0; r < rows; r++) lora_project(lora, &r, 1, nullptr, w.scheme, &a);
    return;
  }
  for (int group = team_next(team, 1), then; group < lora.groups.count; group = then) {
    then = team_next(team, 1);
    const int32_t* order = lora.groups.order + lora.groups.starts[group];
    const int n = lora.groups.starts[group + 1] - lora.groups.starts[group];
    lora_project(lora, order, n, nullptr, w.scheme, &a, row_of(lora.groups, then));
  }
  team_barrier(team);
}

// The rows of the batch that a layer computes: all, or after the last keys and values those that somebody reads.
struct Rows {
  int count;
  const int32_t* index;  // null: row i is i
  LoraGroups groups;     // where the batch has adapters
};

DW_INLINE int row_at(const Rows& rows, int i) { return rows.index ? rows.index[i] : i; }

// What the adapters of the batch add to the matrix at `place`, for these rows.
static LoraProduct lora_product(const Batch& b, int place, const Rows& rows, const Layout& l) {
  float* t = rows.count <= kPrivateRows ? l.private_lora : l.shared_lora;
  return {b.adapters, b.adapter_of, rows.index, place, t, l.lora_stride, l.lora_bytes, rows.groups};
}

static void add_to_residual(const Matrix& w, const Activations& a, const LoraProduct& lora, const Rows& rows, const Layout& l,
                            Team* team) {
  gemm(w, a, rows.count, team, l.tid, [&](int i, int p, const float* y) {
    alignas(64) float sum[kPanel];
    y = lora_add(lora, i, p, y, sum);
    float* x = l.x + (size_t)row_at(rows, i) * l.hidden_stride + p * kPanel;
    for (int i = 0; i < kPanel; i += W) store(x + i, load(x + i) + load(y + i));
  });
}

}  // namespace DW_ISA
}  // namespace deepwell
