// A layer of latent attention.
//
// Rows of a prompt attend by expanded keys and values: a thread takes some heads of a sequence, expands a piece of its context for them and
// lets all rows of the step pass over it. Generated rows attend to the latents themselves, their queries taken to that space by
// `k_absorb`: work items are (sequence, piece, lane groups), so one long sequence keeps every thread busy. Which way a row goes is decided
// by its place in the sequence alone, never by the size of a step.
#pragma once
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/lora.h"
#include "kernels/mla.h"
#include "kernels/mla_factors.h"
#include "kernels/mla_index.h"
#include "kernels/mla_layout.h"
#include "kernels/mla_tiles.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "kernels/step.h"
#include "pool.h"
#include "profile.h"

namespace deepwell {
namespace DW_ISA {

enum Role : int32_t { kRoleDead = -2, kRolePrompt = -1 };  // else the index among the absorbed rows

DW_INLINE int latent_queries(const LatentLayer& a) { return a.heads * (a.nope + a.rope); }

// The roles of all rows, and who is absorbed. `live.index` may leave rows out.
static int find_roles(const LatentLayer& a, const Batch& b, const Rows& live, int32_t* role, int32_t* absorbed, int32_t* absorbed_seq) {
  int count = 0, next = 0;
  for (int s = 0; s < b.seqs; s++)
    for (int row = b.seq_starts[s]; row < b.seq_starts[s + 1]; row++) {
      bool alive = !live.index || (next < live.count && live.index[next] == row);
      next += alive;
      if (!alive) {
        role[row] = kRoleDead;
      } else if (is_expanded_row(a, b, s, row)) {
        role[row] = kRolePrompt;
      } else {
        absorbed[count] = row, absorbed_seq[count] = s;
        role[row] = count++;
      }
    }
  return count;
}

// Tokens that an absorbed row attends to.
DW_INLINE int attended_tokens(const LatentLayer& a, const Batch& b, int row) {
  return is_sparse_row(a, b, row) ? a.indexer->top_k : b.positions[row] + 1;
}

// Cuts the absorbed rows into runs; a row that leaves tokens out shares its pieces with no other.
static int find_runs(const LatentLayer& a, const Batch& b, const int32_t* absorbed, const int32_t* seq, int count, LatentRun* runs) {
  int n = 0, records = 0, groups = lane_groups(a);
  for (int first = 0, end; first < count; first = end) {
    end = first + 1;
    if (!is_sparse_row(a, b, absorbed[first]))
      while (end < count && seq[end] == seq[first] && !is_sparse_row(a, b, absorbed[end])) end++;
    for (int unit = first * groups; unit < end * groups; unit += kRunUnits, n++) {
      int units = min_of(kRunUnits, end * groups - unit);
      int pieces = memory_pieces(b, seq[first]) + pieces_of(attended_tokens(a, b, absorbed[(unit + units - 1) / groups]));
      runs[n] = {unit, units, pieces, records};
      records += units * pieces;
    }
  }
  return n;
}

// y = W x with an x a head: rows [0, rows) of head h are `activations(h)`; `epilogue(head, row, panel of the head, y[32])`.
template <class Epilogue>
static void head_gemm(const Matrix& w, int heads, uint8_t* memory, size_t head_bytes, int rows, Team* team, int tid,
                      const Epilogue& epilogue) {
  const int panels = w.panels / heads;
  share_items(w.panels * ceil_div(rows, kRowBlock), team, tid, [&](int item) {
    int p = item % w.panels, row = item / w.panels * kRowBlock, head = p / panels;
    any_panel_rows(w, p, activations_at(memory + head * head_bytes, w, rows), row, min_of(row + kRowBlock, rows),
                   [&](int i, int panel, const float* y) { epilogue(head, i, panel % panels, y); });
  });
}

// The indexer's keys, and where a row leaves tokens out its queries.
static void index_products(const LatentLayer& a, const Model& m, const Batch& b, const Layout& l, Team* team) {
  const LatentLayout& t = l.latent;
  auto product = [&](const Matrix& w, float* to, int stride, const auto& source) {
    Activations x = quantize_rows(w, b.rows, {}, l, team, source);
    gemm(w, x, b.rows, team, l.tid, [&](int row, int p, const float* y) {
      memcpy(to + (size_t)row * stride + p * kPanel, y, kPanel * sizeof(float));
    });
  };
  product(a.indexer->k, t.index_k, t.index_k_stride, [&](int row, float* scratch) {
    rms_norm_row(l.x + (size_t)row * l.hidden_stride, a.norm, m.hidden, a.eps, scratch);
    return scratch;
  });
  if (!t.sparse) return;
  product(a.indexer->q_b, t.index_q, t.index_q_stride, [&](int row, float* scratch) {
    rms_norm_row(t.a + (size_t)row * t.a_stride, a.q_norm, a.q_rank, a.eps, scratch);
    return scratch;
  });
}

// ---- front: latents into the cache, queries rotated -------------------------------------------------------------

static void write_token(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int row, int seq,
                        const Layout& l) {
  const LatentLayout& t = l.latent;
  int position = b.positions[row], block = b.block_tables[(size_t)seq * b.max_blocks + position / kBlockTokens];
  const float* x = t.a + (size_t)row * t.a_stride + (a.q_rank ? a.q_rank : latent_queries(a));
  float* pe = t.token + t.dims.rank;
  memset(t.token, 0, t.dims.all * sizeof(float));
  rms_norm_row(x, a.kv_norm, a.rank, a.eps, t.token);
  memcpy(pe, x + a.rank, a.rope * sizeof(float));
  rope_head(pe, m.cos + (size_t)position * (a.rope / 2), m.sin + (size_t)position * (a.rope / 2), a.rope);
  uint8_t* to = (uint8_t*)latent_block(cache, index, block);
  write_latent(t.dims, to, position % kBlockTokens, t.token, pe, t.rounded);
  if (!a.indexer) return;
  memset(t.token, 0, t.dims.index * sizeof(float));
  memcpy(t.token, t.index_k + (size_t)row * t.index_k_stride, a.indexer->head_dim * sizeof(float));
  prepare_index_key(*a.indexer, t.token, a.rope, m.cos + (size_t)position * (a.rope / 2), m.sin + (size_t)position * (a.rope / 2));
  write_index_key(t.dims, to, position % kBlockTokens, t.token);
}

// Queries of heads [first, end) of one row: rotated, scaled and, where the row is absorbed, rounded for `k_absorb`.
static void prepare_queries(const LatentLayer& a, const Model& m, const Batch& b, int row, int first, int end, int absorbed,
                            const Layout& l) {
  const LatentLayout& t = l.latent;
  int position = b.positions[row], dim = a.nope + a.rope;
  const float* cos = m.cos + (size_t)position * (a.rope / 2);
  const float* sin = m.sin + (size_t)position * (a.rope / 2);
  for (int head = first; head < end; head++) {
    float* q = t.q + (size_t)row * t.q_stride + head * dim;
    rope_head(q + a.nope, cos, sin, a.rope);
    scale_row(q, a.scale, dim);
    if (t.role[row] >= 0) quantize_row(a.k_absorb, q, activations_at(t.absorb + head * t.absorb_bytes, a.k_absorb, absorbed), t.role[row]);
  }
}

static void latent_front(const LatentLayer& a, int index, const Model& m, const Batch& b, const KVCache& cache, int absorbed,
                         const Layout& l, Team* team) {
  int groups = lane_groups(a), items = b.rows * (groups + 1);
  for (int item; (item = team_next(team, 1)) < items;) {
    int row = item / (groups + 1), part = item % (groups + 1), seq = 0;
    if (part < groups) {
      if (l.latent.role[row] != kRoleDead)
        prepare_queries(a, m, b, row, part * kLanes, min_of((part + 1) * kLanes, a.heads), absorbed, l);
      continue;
    }
    while (b.seq_starts[seq + 1] <= row) seq++;
    write_token(a, m, b, cache, index, row, seq, l);
  }
  team_barrier(team);
}

// ---- absorbed rows ----------------------------------------------------------------------------------------------

// Queries in the latents' space, by lane groups.
static void absorb_queries(const LatentLayer& a, int absorbed, const Layout& l, Team* team) {
  const LatentLayout& t = l.latent;
  head_gemm(a.k_absorb, a.heads, t.absorb, t.absorb_bytes, absorbed, team, l.tid, [&](int head, int i, int p, const float* y) {
    memcpy(t.latent_q + ((size_t)i * a.heads + head) * t.dims.rank + p * kPanel, y, kPanel * sizeof(float));
  });
  int groups = lane_groups(a);
  for (int unit; (unit = team_next(team, 1)) < absorbed * groups;) {
    int i = unit / groups, first = unit % groups * kLanes;
    LaneQueries q = lane_queries_at(t.queries + unit * t.queries_floats, t.dims);
    for (int lane = 0; lane < kLanes; lane++) {
      int head = first + lane;
      if (head >= a.heads) {
        clear_lane(q, t.dims, lane);
        continue;
      }
      const float* pe = t.q + (size_t)t.absorbed[i] * t.q_stride + head * (a.nope + a.rope) + a.nope;
      set_lane(q, t.dims, lane, t.latent_q + ((size_t)i * a.heads + head) * t.dims.rank, pe, a.rope);
    }
  }
  team_barrier(team);
}

DW_INLINE int lanes_of(const LatentLayer& a, int unit) {
  return min_of(kLanes, a.heads - unit % lane_groups(a) * kLanes);
}

// The units of a run over one piece of what their sequence remembers.
static void attend_remembered(const LatentLayer& a, const Model& m, const Memory& memory, int index, const LatentRun& run, int piece,
                              float* const* records, const Layout& l) {
  const LatentLayout& t = l.latent;
  LatentFactors factors = find_latent_factors(memory, index, t.dims, piece);
  for (int u = 0; u < run.count; u++) {
    int i = (run.first + u) / lane_groups(a), first = (run.first + u) % lane_groups(a) * kLanes, lanes = lanes_of(a, run.first + u);
    const float *latent[kLanes], *pe[kLanes];
    for (int lane = 0; lane < lanes; lane++) {
      int head = first + lane;
      latent[lane] = t.latent_q + ((size_t)i * a.heads + head) * t.dims.rank;
      pe[lane] = t.q + (size_t)t.absorbed[i] * t.q_stride + head * (a.nope + a.rope) + a.nope;
    }
    attend_latent_factors(m, memory, factors, t.dims, a.rope, latent, pe, lanes, l, records[u]);
  }
}

// The units of a run over one piece; records[u] receives unit u's part. This thread's next piece is likely `step` behind it.
static void attend_run(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, const LatentRun& run,
                       int piece, int step, float* const* records, const Layout& l) {
  const LatentLayout& t = l.latent;
  int groups = lane_groups(a), seq = t.absorbed_seq[run.first / groups], page = piece - memory_pieces(b, seq), start = page * kPieceTokens;
  if (page < 0) return attend_remembered(a, m, *b.memories[seq], index, run, piece, records, l);
  LaneQueries queries[kRunUnits];
  int visible[kRunUnits], lanes[kRunUnits];
  for (int u = 0; u < run.count; u++) {
    int unit = run.first + u, row = t.absorbed[unit / groups];
    queries[u] = lane_queries_at(t.queries + unit * t.queries_floats, t.dims);
    visible[u] = max_of(0, min_of(kPieceTokens, attended_tokens(a, b, row) - start));
    lanes[u] = lanes_of(a, unit);
  }
  LaneGroups g = {run.count, queries, visible, t.scores};
  int i = run.first / groups, tokens = most_visible(g);
  const int32_t* table = b.block_tables + (size_t)seq * b.max_blocks;
  LatentPiece data;
  LatentsAhead ahead = {};
  if (is_sparse_row(a, b, t.absorbed[i])) {
    data = gather_latents(t.dims, cache, index, table, t.chosen + (size_t)i * a.indexer->top_k + start, tokens, t.gathered);
  } else {
    data = find_latents(cache, index, table, page, tokens);
    if (piece + step < run.pieces) {
      int last = t.absorbed[(run.first + run.count - 1) / groups];
      int next = min_of(kPieceTokens, attended_tokens(a, b, last) - start - step * kPieceTokens);
      ahead.piece = find_latents(cache, index, table, page + step, next);
      ahead.blocks = ceil_div(next, kBlockTokens), ahead.bytes = (int)t.dims.block_bytes;
    }
  }
  attend_latents(data, t.dims, g, lanes, records, t.widened, &ahead);
}

// A head's attended latent, as `v_up` wants it.
static void finish_head(const LatentLayer& a, int unit, int lane, float* o, float sum, int absorbed, const Layout& l) {
  const LatentLayout& t = l.latent;
  int groups = lane_groups(a), head = unit % groups * kLanes + lane;
  scale_row(o, 1.0f / sum, t.dims.rank);
  quantize_row(a.v_up, o, activations_at(t.attended + head * t.attended_bytes, a.v_up, absorbed), unit / groups);
}

static void merge_lane(float* to, Softmax* total, const float* record, int lane, int rank) {
  merge_piece(to, total, record + 2 * kLanes + (size_t)lane * rank, {record[lane], record[kLanes + lane]}, rank);
}

// All pieces of a run in order, by one thread.
static void attend_whole_run(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, const LatentRun& run,
                             int absorbed, const Layout& l) {
  const LatentLayout& t = l.latent;
  size_t floats = record_floats(t.dims);
  float *parts[kRunUnits], *totals[kRunUnits];
  for (int u = 0; u < run.count; u++) {
    parts[u] = t.own_records + u * floats, totals[u] = t.own_records + (kRunUnits + u) * floats;
    memset(totals[u], 0, floats * sizeof(float));
    for (int lane = 0; lane < kLanes; lane++) totals[u][lane] = -__builtin_inff();
  }
  for (int piece = 0; piece < run.pieces; piece++) {
    attend_run(a, m, b, cache, index, run, piece, 1, parts, l);
    for (int u = 0; u < run.count; u++)
      for (int lane = 0; lane < lanes_of(a, run.first + u); lane++) {
        Softmax total = {totals[u][lane], totals[u][kLanes + lane]};
        merge_lane(totals[u] + 2 * kLanes + (size_t)lane * t.dims.rank, &total, parts[u], lane, t.dims.rank);
        totals[u][lane] = total.max, totals[u][kLanes + lane] = total.sum;
      }
  }
  for (int u = 0; u < run.count; u++)
    for (int lane = 0; lane < lanes_of(a, run.first + u); lane++)
      finish_head(a, run.first + u, lane, totals[u] + 2 * kLanes + (size_t)lane * t.dims.rank, totals[u][kLanes + lane], absorbed, l);
}

static int attend_items(const LatentLayout& t, int runs) {
  int items = 0;
  for (int r = 0; r < runs; r++) items += t.split ? t.runs[r].pieces : 1;
  return items;
}

static void attend_item(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int item, int absorbed,
                        const Layout& l, const Team* team) {
  const LatentLayout& t = l.latent;
  if (!t.split) return attend_whole_run(a, m, b, cache, index, t.runs[item], absorbed, l);
  int r = 0;
  for (; item >= t.runs[r].pieces; r++) item -= t.runs[r].pieces;
  const LatentRun& run = t.runs[r];
  float* records[kRunUnits];
  for (int u = 0; u < run.count; u++)
    records[u] = t.records + ((size_t)run.record + (size_t)item * run.count + u) * record_floats(t.dims);
  attend_run(a, m, b, cache, index, run, item, team->size, records, l);
}

static void merge_split(const LatentLayer& a, int runs, int absorbed, const Layout& l, Team* team) {
  const LatentLayout& t = l.latent;
  for (int item, units = absorbed * lane_groups(a); (item = team_next(team, 1)) < units * kLanes;) {
    int unit = item / kLanes, lane = item % kLanes, r = 0;
    if (lane >= lanes_of(a, unit)) continue;
    while (r + 1 < runs && t.runs[r + 1].first <= unit) r++;
    const LatentRun& run = t.runs[r];
    const float* record = t.records + ((size_t)run.record + (unit - run.first)) * record_floats(t.dims);
    memset(t.tile, 0, t.dims.rank * sizeof(float));
    Softmax total = {-__builtin_inff(), 0.0f};
    for (int piece = 0; piece < run.pieces; piece++, record += run.count * record_floats(t.dims))
      merge_lane(t.tile, &total, record, lane, t.dims.rank);
    finish_head(a, unit, lane, t.tile, total.sum, absorbed, l);
  }
  team_barrier(team);
}

// ---- prompt rows ------------------------------------------------------------------------------------------------

// Keys and values of `tokens` tokens of a head, as blocks of a cache of floats; the rotated part of the keys is there already.
static void expand_head(const LatentLayer& a, const Activations& x, int head, int tokens, float* blocks) {
  int key_dim = a.nope + a.rope, block_floats = kBlockTokens * (key_dim + a.value_dim);
  int key_panels = a.k_up.panels / a.heads, value_panels = a.v_up.panels / a.heads;
  for (int row = 0; row < tokens; row += kRowBlock) {
    int end = min_of(row + kRowBlock, tokens);
    for (int p = 0; p < key_panels; p++)
      any_panel_rows(a.k_up, head * key_panels + p, x, row, end, [&](int t, int, const float* y) {
        float* to = blocks + (size_t)(t / kBlockTokens) * block_floats + (size_t)p * kPanel * kBlockTokens + t % kBlockTokens;
        for (int i = 0; i < min_of(kPanel, a.nope - p * kPanel); i++) to[i * kBlockTokens] = y[i];
      });
    for (int p = 0; p < value_panels; p++)
      any_panel_rows(a.v_up, head * value_panels + p, x, row, end, [&](int t, int, const float* y) {
        float* to = blocks + (size_t)(t / kBlockTokens) * block_floats + kBlockTokens * key_dim + t % kBlockTokens * a.value_dim + p * kPanel;
        memcpy(to, y, min_of(kPanel, a.value_dim - p * kPanel) * sizeof(float));
      });
  }
}

// The latents of a piece of a sequence, rounded for `k_up`, and the rotated part of its keys, as in `expand_head`; a piece of what it
// remembers, or the first `tokens` of a piece of its pages.
static void read_piece(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int seq, int piece,
                       int tokens, const Activations& x, const Layout& l) {
  const LatentLayout& t = l.latent;
  int block_floats = kBlockTokens * (a.nope + a.rope + a.value_dim), page = piece - memory_pieces(b, seq);
  const int32_t* table = b.block_tables + (size_t)seq * b.max_blocks + max_of(page, 0) * kPieceBlocks;
  LatentFactors factors;
  if (page < 0) factors = find_latent_factors(*b.memories[seq], index, t.dims, piece);
  float* pe = t.token + t.dims.rank;
  for (int i = 0; i < tokens; i++) {
    if (page < 0) {
      const Memory& memory = *b.memories[seq];
      read_factored(m, memory, factors, t.dims, a.rope, i, t.factors, t.factors + memory.key_rank, t.token, pe);
    } else {
      read_latent(t.dims, latent_block(cache, index, table[i / kBlockTokens]), i % kBlockTokens, t.token, pe);
    }
    quantize_row(a.k_up, t.token, x, i);
    float* to = t.expanded + (size_t)(i / kBlockTokens) * block_floats + (size_t)a.nope * kBlockTokens + i % kBlockTokens;
    for (int d = 0; d < a.rope; d++) to[d * kBlockTokens] = pe[d];
  }
}

// Rows `rows[0..count)` of one sequence, heads [first, end): piece by piece of the context.
static void attend_expanded(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int seq,
                            const int32_t* rows, int count, int first, int end, const Layout& l) {
  const LatentLayout& t = l.latent;
  int key_dim = a.nope + a.rope, block_floats = kBlockTokens * (key_dim + a.value_dim), length = b.positions[rows[count - 1]] + 1;
  for (int head = first; head < end; head++)
    for (int i = 0; i < count; i++) {
      memset(l.attention + (size_t)rows[i] * l.attention_stride + head * a.value_dim, 0, a.value_dim * sizeof(float));
      t.softmax[(head - first) * count + i] = {-__builtin_inff(), 0.0f};
    }
  Piece data;
  for (int i = 0; i < kPieceBlocks; i++) data.blocks[i] = (const uint8_t*)(t.expanded + (size_t)i * block_floats);
  int start_row = 0, remembered = memory_pieces(b, seq);
  for (int piece = 0; piece < remembered + pieces_of(length); piece++) {
    int start = (piece - remembered) * kPieceTokens, tokens = min_of(kPieceTokens, length - start);  // before 0 all rows see all
    if (piece < remembered) tokens = find_latent_factors(*b.memories[seq], index, t.dims, piece).tokens;
    while (b.positions[rows[start_row]] < start) start_row++;
    Activations x = activations_at(t.activations, a.k_up, tokens);
    read_piece(a, m, b, cache, index, seq, piece, tokens, x, l);
    for (int head = first; head < end; head++) {
      expand_head(a, x, head, tokens, t.expanded);
      Softmax* total = t.softmax + (head - first) * count;
      for (int i = start_row, n; i < count; i += n) {
        n = min_of(kQueryTile, count - i);
        const float* q[kQueryTile];
        float* out[kQueryTile];
        int visible[kQueryTile];
        Softmax part[kQueryTile];
        for (int r = 0; r < n; r++) {
          q[r] = t.q + (size_t)rows[i + r] * t.q_stride + head * key_dim;
          out[r] = t.tile + r * a.value_dim;
          visible[r] = min_of(tokens, b.positions[rows[i + r]] + 1 - start);
        }
        attend<float>(n, q, visible, data, key_dim, a.value_dim, l.scratch, out, part);
        for (int r = 0; r < n; r++)
          merge_piece(l.attention + (size_t)rows[i + r] * l.attention_stride + head * a.value_dim, total + i + r, out[r], part[r],
                      a.value_dim);
      }
    }
  }
  for (int head = first; head < end; head++)
    for (int i = 0; i < count; i++)
      scale_row(l.attention + (size_t)rows[i] * l.attention_stride + head * a.value_dim, 1.0f / t.softmax[(head - first) * count + i].sum,
                a.value_dim);
}

static void expand_item(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int item, int slice,
                        const Layout& l) {
  int slices = ceil_div(a.heads, slice), seq = item / slices, first = item % slices * slice, count = 0;
  for (int row = b.seq_starts[seq]; row < b.seq_starts[seq + 1]; row++)
    if (l.latent.role[row] == kRolePrompt) l.latent.prompt_rows[count++] = row;
  if (count) attend_expanded(a, m, b, cache, index, seq, l.latent.prompt_rows, count, first, min_of(first + slice, a.heads), l);
}

// ---- the layer ----------------------------------------------------------------------------------------------------

// Latents of every row are written; the result is added to the `live` rows.
static void latent_layer(const LatentLayer& a, int index, const LoraPlaces& places, const Model& m, const Batch& b,
                         const KVCache& cache, const Rows& live, const Layout& l, Team* team) {
  const LatentLayout& t = l.latent;
  int absorbed = find_roles(a, b, live, t.role, t.absorbed, t.absorbed_seq);
  LoraProduct lora = lora_product(b, places.a, {b.rows, nullptr, l.groups}, l);
  Activations x = quantize_rows(a.a, b.rows, lora, l, team, [&](int row, float* scratch) {
    rms_norm_row(l.x + (size_t)row * l.hidden_stride, a.norm, m.hidden, a.eps, scratch);
    return scratch;
  });
  DW_PHASE_ENDS(kPhaseNorm);
  gemm(a.a, x, b.rows, team, l.tid, [&](int row, int p, const float* y) {
    alignas(64) float sum[kPanel];
    memcpy(t.a + (size_t)row * t.a_stride + p * kPanel, lora_add(lora, row, p, y, sum), kPanel * sizeof(float));
  });
  if (a.q_rank) {
    lora = lora_product(b, places.q_b, {b.rows, nullptr, l.groups}, l);
    x = quantize_rows(a.q_b, b.rows, lora, l, team, [&](int row, float* scratch) {
      rms_norm_row(t.a + (size_t)row * t.a_stride, a.q_norm, a.q_rank, a.eps, scratch);
      return scratch;
    });
    gemm(a.q_b, x, b.rows, team, l.tid, [&](int row, int p, const float* y) {
      alignas(64) float sum[kPanel];
      memcpy(t.q + (size_t)row * t.q_stride + p * kPanel, lora_add(lora, row, p, y, sum), kPanel * sizeof(float));
    });
  }
  if (a.indexer) index_products(a, m, b, l, team);
  latent_front(a, index, m, b, cache, absorbed, l, team);
  if (absorbed && t.sparse) choose_rows(a, m, b, cache, index, absorbed, l, team);
  if (absorbed) absorb_queries(a, absorbed, l, team);
  DW_PHASE_ENDS(kPhaseQkv);
  int runs = find_runs(a, b, t.absorbed, t.absorbed_seq, absorbed, t.runs);
  int slice = expand_heads(a, team->size), expand = ceil_div(a.heads, slice) * b.seqs, items = attend_items(t, runs);
  for (int item; (item = team_next(team, 1)) < expand + items;) {
    if (item < expand) expand_item(a, m, b, cache, index, item, slice, l);
    else attend_item(a, m, b, cache, index, item - expand, absorbed, l, team);
  }
  team_barrier(team);
  if (absorbed) {
    if (t.split) merge_split(a, runs, absorbed, l, team);
    head_gemm(a.v_up, a.heads, t.attended, t.attended_bytes, absorbed, team, l.tid, [&](int head, int i, int p, const float* y) {
      memcpy(l.attention + (size_t)t.absorbed[i] * l.attention_stride + head * a.value_dim + p * kPanel, y,
             min_of(kPanel, a.value_dim - p * kPanel) * sizeof(float));
    });
  }
  DW_PHASE_ENDS(kPhaseAttention);
  lora = lora_product(b, places.o, live, l);
  Activations o = quantize_rows(a.o, live.count, lora, l, team, [&](int i, float*) {
    return l.attention + (size_t)row_at(live, i) * l.attention_stride;
  });
  DW_PHASE_ENDS(kPhaseNorm);
  add_to_residual(a.o, o, lora, live, l, team);
  DW_PHASE_ENDS(kPhaseO);
}

}  // namespace DW_ISA
}  // namespace deepwell
