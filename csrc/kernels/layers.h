// One step of a decoder, run by all threads together. Between two phases that depend on each other stands one barrier: five a
// layer at one row. With one or two rows every thread quantises the rows for itself, which is cheaper than a barrier. What attention
// and gate_up compute is rounded part by part by the thread that has it in its first-level cache: no floats are written, no barrier follows.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/attention_pairs.h"
#include "kernels/attention_tiles.h"
#include "kernels/compressed_layer.h"
#include "kernels/factors.h"
#include "kernels/gemm.h"
#include "kernels/hyper.h"
#include "kernels/lora.h"
#include "kernels/mla_layer.h"
#include "kernels/moe.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "kernels/step.h"
#include "pool.h"
#include "profile.h"

namespace deepwell {
namespace DW_ISA {

// ---- attention ------------------------------------------------------------------------------------------------

struct Heads {  // of one layer, for brevity
  int index;    // of the layer in the cache
  int heads, kv_heads, group, head_dim;
  float scale;
  const float *q_norm, *k_norm;
  float eps;
  const Matrix* o;      // where results are rounded for it at once; null where they stay floats
  Activations results;  // then
};

// One query or key head before it is used: normalised where the model asks for it (Qwen3), then rotated.
DW_INLINE void prepare_head(float* x, const float* norm, const Heads& h, const float* cos, const float* sin) {
  if (norm) rms_norm_row(x, norm, h.head_dim, h.eps, x);
  rope_head(x, cos, sin, h.head_dim);
}

static void prepare_query(float* q, const Heads& h, [[maybe_unused]] const KVCache& cache, const float* cos, const float* sin) {
  prepare_head(q, h.q_norm, h, cos, sin);
  scale_row(q, h.scale, h.head_dim);
#if defined(DW_BF16_DOT)
  if (attends_in_pairs(cache, h.head_dim)) round_query(q, h.head_dim);
#endif
}

static void write_result(const Layout& l, const Heads& h, int row, int head, const float* o, float sum) {
  alignas(64) float result[kMaxHeadDim];
  float* to = h.o ? result : l.attention + (size_t)row * l.attention_stride + head * h.head_dim;
  memcpy(to, o, h.head_dim * sizeof(float));
  scale_row(to, 1.0f / sum, h.head_dim);
  if (h.o) quantize_parts(*h.o, result, 0, h.head_dim, h.results, row, 1, head * h.head_dim);
}

// `vectors` query vectors over one piece, in micro-tiles of even size (7 as 4 + 3, not 6 + 1); `done(v, o, softmax)` receives each.
template <class T, class Done>
static void attend_vectors(const float* const* q, const int* visible, int vectors, const Piece& piece, const Heads& h,
                           const Layout& l, float* out_rows, const Done& done) {
  int tiles = ceil_div(vectors, kQueryTile);
  for (int tile = 0, first = 0, n; tile < tiles; tile++, first += n) {
    n = ceil_div(vectors - first, tiles - tile);
    int seen = 0;
    for (int r = 0; r < n; r++) seen += visible[first + r];
    if (seen == 0) continue;
    float* out[kQueryTile];
    Softmax softmax[kQueryTile];
    for (int r = 0; r < n; r++) out[r] = out_rows + r * h.head_dim;
    attend<T>(n, q + first, visible + first, piece, h.head_dim, h.head_dim, l.scratch, out, softmax);
    for (int r = 0; r < n; r++) done(first + r, out[r], softmax[r]);
  }
}

DW_INLINE Piece widened(const KVCache& cache, const Piece& piece, int tokens, const Layout& l) {
  float* to = l.scratch + kQueryTile * kPieceTokens;
  if (cache.type == kKvBf16) return widen_piece<uint16_t>(cache, piece, tokens, to);
  if (cache.type == kKvInt8) return widen_piece<int8_t>(cache, piece, tokens, to);
  return piece;
}

// The same straight from the cache, or from a widened copy where enough vectors read it.
template <class Done>
static void attend_cached(const float* const* q, const int* visible, int vectors, const Piece& piece, const KVCache& cache,
                          int tokens, const Heads& h, const Layout& l, const Done& done) {
#if defined(DW_BF16_DOT)
  if (attends_in_pairs(cache, h.head_dim)) {
    if (!tile_state.on) return attend_vectors<InPairs>(q, visible, vectors, piece, h, l, l.tile, done);
    if (vectors <= kQueryTile) return attend_vectors<AsTiles>(q, visible, vectors, piece, h, l, l.tile, done);
    PairedPiece pairs = pair_piece(piece, h.head_dim, tokens, (int32_t*)(l.scratch + tile_rows_floats(h.head_dim)));
    return attend_tiled(q, visible, vectors, pairs, h.head_dim, tile_rows_at(l.scratch, h.head_dim), done);
  }
#endif
  if (vectors > 2 * kQueryTile || cache.type == kKvFp32) {
    attend_vectors<float>(q, visible, vectors, widened(cache, piece, tokens, l), h, l, l.tile, done);
  } else if (cache.type == kKvBf16) {
    attend_vectors<uint16_t>(q, visible, vectors, piece, h, l, l.tile, done);
  } else {
    attend_vectors<int8_t>(q, visible, vectors, piece, h, l, l.tile, done);
  }
}

// A work item of `attend_decode`: a piece of what the row of sequence `s` attends to, in one KV head.
struct DecodeItem {
  int s, kv, piece, pieces;
  int page;  // the piece among the pages; < 0: one of the memory
  int tokens;
};

static DecodeItem decode_item(const Batch& b, int kv_heads, int most_pieces, int item) {
  DecodeItem i;
  i.piece = item % most_pieces, i.kv = item / most_pieces % kv_heads, i.s = item / most_pieces / kv_heads;
  i.pieces = all_pieces(b, i.s), i.page = i.piece - memory_pieces(b, i.s);
  i.tokens = min_of(kPieceTokens, b.positions[i.s] + 1 - i.page * kPieceTokens);
  return i;
}

// One row a sequence: work items are (sequence, KV head, piece), so one long sequence keeps every thread busy. A thread claims its next
// item early, and asks for its keys and values meanwhile.
static void attend_decode(const Model& m, const Batch& b, const KVCache& cache, const Heads& h, const Layout& l, Team* team) {
  int most_pieces = 1;
  for (int s = 0; s < b.seqs; s++) most_pieces = max_of(most_pieces, all_pieces(b, s));
  int items = b.seqs * h.kv_heads * most_pieces;
  size_t record = (size_t)h.group * (h.head_dim + 2);
  auto pages_of = [&](int item) {
    if (item >= items) return Piece{};
    const DecodeItem i = decode_item(b, h.kv_heads, most_pieces, item);
    if (i.piece >= i.pieces || i.page < 0) return Piece{};
    return find_piece(cache, h.index, i.kv, b.block_tables + (size_t)i.s * b.max_blocks, i.page, i.tokens);
  };
  // Partials are addressed by a running index over the pieces that exist.
  int item = team_next(team, 1), then;
  Piece data = pages_of(item), later;
  for (; item < items; item = then, data = later) {
    then = team_next(team, 1);
    later = pages_of(then);
    data.ahead = &later;
    const DecodeItem at = decode_item(b, h.kv_heads, most_pieces, item);
    const int s = at.s, kv = at.kv, piece = at.piece, pieces = at.pieces, page = at.page, tokens = at.tokens;
    if (piece >= pieces) continue;
    const int position = b.positions[s];
    const int32_t* table = b.block_tables + (size_t)s * b.max_blocks;
    FactorPiece factors, ahead;
    if (page < 0) {
      factors = find_factors(*b.memories[s], h.index, kv, h.head_dim, piece);
      ahead = find_factors(*b.memories[s], h.index, kv, h.head_dim, page + team->size < 0 ? piece + team->size : piece);
    } else {
      for (int i = 0; i < min_of(2, data.count); i++)  // the keys that are read first
        for (size_t k = 0; k < cache.head_bytes / 2; k += 64) prefetch(data.blocks[i] + k);
    }
    const float* cos = m.cos + (size_t)position * (h.head_dim / 2);
    const float* sin = m.sin + (size_t)position * (h.head_dim / 2);
    const float* qkv = l.qkv + (size_t)s * l.qkv_stride;
    float* queries = l.tile + (size_t)kQueryTile * h.head_dim;  // [group + 1][head_dim]
    memcpy(queries, qkv + (size_t)kv * h.group * h.head_dim, (size_t)h.group * h.head_dim * sizeof(float));
    const float* q[kTileVectors96];
    int visible[kTileVectors96];
    if (piece == pieces - 1) {
      float* k = queries + (size_t)h.group * h.head_dim;
      memcpy(k, qkv + (size_t)(h.heads + kv) * h.head_dim, h.head_dim * sizeof(float));
      prepare_head(k, h.k_norm, h, cos, sin);
      write_kv(cache, h.index, table[position / kBlockTokens], kv, position % kBlockTokens, k,
               qkv + (size_t)(h.heads + h.kv_heads + kv) * h.head_dim);
    }
    for (int g = 0; g < h.group; g++) {
      float* query = queries + (size_t)g * h.head_dim;
      prepare_query(query, h, cache, cos, sin);
      q[g] = query;
      visible[g] = tokens;
    }
    int before = 0;
    for (int i = 0; i < s; i++) before += all_pieces(b, i);
    float* partial = l.partials + ((size_t)before * h.kv_heads + (size_t)kv * pieces + piece) * record;
    auto done = [&](int g, const float* o, Softmax softmax) {
      if (pieces == 1 && h.o) {  // in place of the query, which nobody reads any more
        memcpy(queries + (size_t)g * h.head_dim, o, h.head_dim * sizeof(float));
        return scale_row(queries + (size_t)g * h.head_dim, 1.0f / softmax.sum, h.head_dim);
      }
      if (pieces == 1) return write_result(l, h, s, kv * h.group + g, o, softmax.sum);
      float* to = partial + (size_t)g * (h.head_dim + 2);
      to[0] = softmax.max, to[1] = softmax.sum;
      memcpy(to + 2, o, h.head_dim * sizeof(float));
    };
    if (page < 0) attend_factors(m, *b.memories[s], q, h.group, factors, ahead, h.head_dim, l, done);
    else attend_cached(q, visible, h.group, data, cache, tokens, h, l, done);
    const int numbers = h.group * h.head_dim;
    if (pieces == 1 && h.o) quantize_parts(*h.o, queries, 0, numbers, h.results, s, 1, kv * numbers);
  }
  if (h.o) prefetch_first(*h.o, b.rows, 1, team, l.tid);
  team_barrier(team);
  if (most_pieces == 1) return;
  for (int item; (item = team_next(team, 1)) < b.seqs * h.heads;) {
    int head = item % h.heads, kv = head / h.group, g = head % h.group, s = item / h.heads;
    int pieces = all_pieces(b, s), before = 0;
    if (pieces == 1) continue;
    for (int i = 0; i < s; i++) before += all_pieces(b, i);
    float* o = l.tile;
    memset(o, 0, h.head_dim * sizeof(float));
    Softmax total = {-__builtin_inff(), 0.0f};
    for (int piece = 0; piece < pieces; piece++) {
      const float* from = l.partials + ((size_t)before * h.kv_heads + (size_t)kv * pieces + piece) * record +
                          (size_t)g * (h.head_dim + 2);
      merge_piece(o, &total, from + 2, {from[0], from[1]}, h.head_dim);
    }
    write_result(l, h, s, head, o, total.sum);
  }
  team_barrier(team);
}

static void rope_and_write(const Model& m, const Batch& b, const KVCache& cache, const Heads& h, const Layout& l, Team* team) {
  const int chunk = b.rows >= 4 * kBlockTokens ? kBlockTokens : 4;  // whole blocks, whose lines would go back and forth between threads
  for (Claim c; (c = team_claim(team, l.tid, 0, ceil_div(b.rows, chunk), 1)).first < c.end;) {
    int s = 0;
    for (int row = c.first * chunk; row < min_of(c.end * chunk, b.rows); row++) {
      while (b.seq_starts[s + 1] <= row) s++;
      int position = b.positions[row];
      int block = b.block_tables[(size_t)s * b.max_blocks + position / kBlockTokens];
      const float* cos = m.cos + (size_t)position * (h.head_dim / 2);
      const float* sin = m.sin + (size_t)position * (h.head_dim / 2);
      float* qkv = l.qkv + (size_t)row * l.qkv_stride;
      for (int i = 0; i < h.heads; i++) {
        prepare_query(qkv + i * h.head_dim, h, cache, cos, sin);
      }
      for (int i = 0; i < h.kv_heads; i++) {
        float* k = qkv + (h.heads + i) * h.head_dim;
        prepare_head(k, h.k_norm, h, cos, sin);
        write_kv(cache, h.index, block, i, position % kBlockTokens, k, k + h.kv_heads * h.head_dim);
      }
    }
  }
  team_barrier(team);
}

DW_INLINE bool any_between(const Rows& rows, int first, int end) {
  if (!rows.index) return true;
  for (int i = 0; i < rows.count; i++)
    if (rows.index[i] >= first && rows.index[i] < end) return true;
  return false;
}

// Any mix of rows: work items are (sequence, tile of rows, KV head); tiles without a live row are skipped. The threads that begin with the last,
// which are the longest of a prompt, compute fewer of them.
static void attend_rows(const Model& m, const Batch& b, const KVCache& cache, const Heads& h, const Rows& live, const Layout& l, Team* team) {
  int tile_rows = max_of(1, kTileVectors96 / h.group);
  int tiles = 0;
  for (int s = 0; s < b.seqs; s++) tiles += ceil_div(b.seq_starts[s + 1] - b.seq_starts[s], tile_rows);
  const int items = tiles * h.kv_heads;
  for (Claim c; (c = team_claim(team, l.tid, 0, items, 1)).first < c.end;) {
    int kv = c.first % h.kv_heads, index = c.first / h.kv_heads, s = 0, in_sequence = 0;
    for (;; s++, index -= in_sequence) {
      in_sequence = ceil_div(b.seq_starts[s + 1] - b.seq_starts[s], tile_rows);
      if (index < in_sequence) break;
    }
    int row = b.seq_starts[s] + index * tile_rows;
    int rows = min_of(tile_rows, b.seq_starts[s + 1] - row);
    if (!any_between(live, row, row + rows)) continue;
    int vectors = rows * h.group;
    float* o = l.tile + (size_t)kQueryTile * h.head_dim;              // [vectors][head_dim], behind what one tile leaves
    Softmax* softmax = (Softmax*)(o + (size_t)vectors * h.head_dim);  // [vectors]
    const float* q[kTileVectors96];
    int visible[kTileVectors96];
    memset(o, 0, (size_t)vectors * h.head_dim * sizeof(float));
    for (int v = 0; v < vectors; v++) {
      softmax[v] = {-__builtin_inff(), 0.0f};
      q[v] = l.qkv + (size_t)(row + v / h.group) * l.qkv_stride + (kv * h.group + v % h.group) * h.head_dim;
    }
    auto merge = [&](int v, const float* from, Softmax part) {
      merge_piece(o + (size_t)v * h.head_dim, softmax + v, from, part, h.head_dim);
    };
    for (int piece = 0; piece < memory_pieces(b, s); piece++) {
      FactorPiece factors = find_factors(*b.memories[s], h.index, kv, h.head_dim, piece);
      attend_factors(m, *b.memories[s], q, vectors, factors, factors, h.head_dim, l, merge);
    }
    int last = b.positions[row + rows - 1];
    for (int piece = 0; piece < pieces_of(last + 1); piece++) {
      int start = piece * kPieceTokens;
      for (int v = 0; v < vectors; v++)
        visible[v] = max_of(0, min_of(kPieceTokens, b.positions[row + v / h.group] + 1 - start));
      int tokens = min_of(kPieceTokens, last + 1 - start);
      Piece data = find_piece(cache, h.index, kv, b.block_tables + (size_t)s * b.max_blocks, piece, tokens);
      attend_cached(q, visible, vectors, data, cache, tokens, h, l, merge);
    }
    if (!h.o) {
      for (int v = 0; v < vectors; v++)
        write_result(l, h, row + v / h.group, kv * h.group + v % h.group, o + (size_t)v * h.head_dim, softmax[v].sum);
      continue;
    }
    for (int v = 0; v < vectors; v++) scale_row(o + (size_t)v * h.head_dim, 1.0f / softmax[v].sum, h.head_dim);
    const int numbers = h.group * h.head_dim;
    quantize_parts(*h.o, o, numbers, numbers, h.results, row, rows, kv * numbers);
  }
  team_barrier(team);
}

// A few rows a sequence, keys and values written: work items are (sequence, KV head, piece), merged as in `attend_decode`.
static void attend_few(const Model& m, const Batch& b, const KVCache& cache, const Heads& h, const Layout& l, Team* team) {
  int most_pieces = 1;
  auto last_position = [&](int s) { return b.positions[b.seq_starts[s + 1] - 1]; };
  for (int s = 0; s < b.seqs; s++) most_pieces = max_of(most_pieces, all_pieces(b, s));
  // Partials of a sequence: [kv head][piece][row][group].
  auto partials_of = [&](int s) {
    size_t before = 0;
    for (int i = 0; i < s; i++)
      before += (size_t)all_pieces(b, i) * (b.seq_starts[i + 1] - b.seq_starts[i]);
    return l.partials + before * h.heads * (h.head_dim + 2);
  };
  for (int item; (item = team_next(team, 1)) < b.seqs * h.kv_heads * most_pieces;) {
    int piece = item % most_pieces, kv = item / most_pieces % h.kv_heads, s = item / most_pieces / h.kv_heads;
    int first = b.seq_starts[s], vectors = (b.seq_starts[s + 1] - first) * h.group;
    int pieces = all_pieces(b, s), page = piece - memory_pieces(b, s), start = page * kPieceTokens;
    if (piece >= pieces) continue;
    const float* q[kFewVectors];
    int visible[kFewVectors];
    for (int v = 0; v < vectors; v++) {
      int row = first + v / h.group;
      q[v] = l.qkv + (size_t)row * l.qkv_stride + (kv * h.group + v % h.group) * h.head_dim;
      visible[v] = max_of(0, min_of(kPieceTokens, b.positions[row] + 1 - start));
    }
    float* to = partials_of(s) + ((size_t)kv * pieces + piece) * vectors * (h.head_dim + 2);
    for (int v = 0; v < vectors; v++) to[(size_t)v * (h.head_dim + 2) + 1] = 0.0f;  // unseen unless `done` says otherwise
    auto done = [&](int v, const float* o, Softmax softmax) {
      float* record = to + (size_t)v * (h.head_dim + 2);
      record[0] = softmax.max, record[1] = softmax.sum;
      memcpy(record + 2, o, h.head_dim * sizeof(float));
    };
    if (page < 0) {
      FactorPiece data = find_factors(*b.memories[s], h.index, kv, h.head_dim, piece);
      attend_factors(m, *b.memories[s], q, vectors, data, data, h.head_dim, l, done);
      continue;
    }
    int tokens = min_of(kPieceTokens, last_position(s) + 1 - start);
    Piece data = find_piece(cache, h.index, kv, b.block_tables + (size_t)s * b.max_blocks, page, tokens);
    attend_cached(q, visible, vectors, data, cache, tokens, h, l, done);
  }
  team_barrier(team);
  for (int item; (item = team_next(team, 1)) < b.rows * h.heads;) {
    int head = item % h.heads, kv = head / h.group, row = item / h.heads, s = 0;
    while (b.seq_starts[s + 1] <= row) s++;
    int first = b.seq_starts[s], vectors = (b.seq_starts[s + 1] - first) * h.group;
    int pieces = all_pieces(b, s), v = (row - first) * h.group + head % h.group;
    const float* from = partials_of(s) + ((size_t)kv * pieces * vectors + v) * (h.head_dim + 2);
    float* o = l.tile;
    memset(o, 0, h.head_dim * sizeof(float));
    Softmax total = {-__builtin_inff(), 0.0f};
    for (int piece = 0; piece < pieces; piece++, from += (size_t)vectors * (h.head_dim + 2))
      merge_piece(o, &total, from + 2, {from[0], from[1]}, h.head_dim);
    write_result(l, h, row, head, o, total.sum);
  }
  team_barrier(team);
}

// Keys and values of every row are written; the result is added to the `live` rows.
static void attention_layer(const AttentionLayer& a, int index, const LoraPlaces& places, const Model& m, const Batch& b,
                            const KVCache& cache, const Rows& live, const Layout& l, Team* team) {
  LoraProduct lora = lora_product(b, places.qkv, {b.rows, nullptr, l.groups}, l);
  Activations x = quantize_rows(a.qkv, b.rows, lora, l, team, [&](int row, float* scratch) {
    rms_norm_row(l.x + (size_t)row * l.hidden_stride, a.norm, m.hidden, a.eps, scratch);
    return scratch;
  });
  DW_PHASE_ENDS(kPhaseNorm);
  gemm(a.qkv, x, b.rows, team, l.tid, [&](int row, int p, const float* y) {
    alignas(64) float sum[kPanel];
    y = lora_add(lora, row, p, y, sum);
    float* to = l.qkv + (size_t)row * l.qkv_stride + p * kPanel;
    memcpy(to, y, kPanel * sizeof(float));
    if (a.bias)
      for (int i = 0; i < min_of(kPanel, a.qkv.rows - p * kPanel); i++) to[i] += a.bias[p * kPanel + i];
  });
  DW_PHASE_ENDS(kPhaseQkv);
  float scale = 1.0f / __builtin_sqrtf((float)a.head_dim);
  Heads h = {index, a.heads, a.kv_heads, a.heads / a.kv_heads, a.head_dim, scale, a.q_norm, a.k_norm, a.eps, nullptr, {}};
  if (!live.index && rounds_parts(a.o, a.head_dim, b, places.o))
    h.o = &a.o, h.results = activations_at(l.shared_activations, a.o, b.rows);
  if (is_decode(b)) {
    attend_decode(m, b, cache, h, l, team);
  } else {
    rope_and_write(m, b, cache, h, l, team);
    if (few_row_vectors(b, h.kv_heads, h.group)) attend_few(m, b, cache, h, l, team);
    else attend_rows(m, b, cache, h, live, l, team);
  }
  DW_PHASE_ENDS(kPhaseAttention);
  lora = lora_product(b, places.o, live, l);
  Activations o = h.results;
  if (h.o) project_rounded(a.o, o, live.count, lora, team);
  else
    o = quantize_rows(a.o, live.count, lora, l, team, [&](int i, float*) {
      return l.attention + (size_t)row_at(live, i) * l.attention_stride;
    });
  DW_PHASE_ENDS(kPhaseNorm);
  add_to_residual(a.o, o, lora, live, l, team);
  DW_PHASE_ENDS(kPhaseO);
}

DW_INLINE void gate_panel(const float* y, float* to) {
  for (int i = 0; i < kPanel / 2; i += W) store(to + i, silu(load(y + i)) * load(y + kPanel / 2 + i));
}

// Gate and up, whose results are rounded for `down` while they are in the first-level cache: as floats they would be written to memory,
// and read behind a barrier.
static void gated_parts(const MlpLayer& layer, const Activations& x, int rows, const LoraProduct& lora, const Activations& act,
                        const Layout& l, Team* team) {
  alignas(64) float part[kRowBlock * kActPart];
  constexpr int together = kPartPanels;
  gemm_together(
      layer.gate_up, x, rows, together, team, l.tid,
      [&](int row, int p, const float* y) {
        alignas(64) float sum[kPanel];
        gate_panel(lora_add(lora, row, p, y, sum), part + row % kRowBlock * kActPart + p % together * (kPanel / 2));
      },
      [&](int row, int end, int p) {
        quantize_parts(layer.down, part, kActPart, kActPart, act, row, end - row, p * (kPanel / 2));
      },
      &layer.down);
}

static void mlp_layer(const MlpLayer& layer, const LoraPlaces& places, const Model& m, const Batch& b, const Rows& live,
                      const Layout& l, Team* team) {
  LoraProduct lora = lora_product(b, places.gate_up, live, l);
  auto normed = [&](int i, float* scratch) {
    rms_norm_row(l.x + (size_t)row_at(live, i) * l.hidden_stride, layer.norm, m.hidden, layer.eps, scratch);
    return scratch;
  };
  const bool rounds = live.count > kPrivateRows && rounds_parts(layer.down, kActPart, b, places.down);
  Activations x = quantize_rows(layer.gate_up, live.count, lora, l, team, normed, rounds ? kPartPanels : 1);
  DW_PHASE_ENDS(kPhaseNorm);
  Activations act;
  if (rounds) {
    act = activations_at(l.next_activations, layer.down, live.count);
    gated_parts(layer, x, live.count, lora, act, l, team);
    DW_PHASE_ENDS(kPhaseGateUp);
    lora = lora_product(b, places.down, live, l);
    project_rounded(layer.down, act, live.count, lora, team);
    DW_PHASE_ENDS(kPhaseNorm);
  } else {
    gemm(layer.gate_up, x, live.count, team, l.tid, [&](int row, int p, const float* y) {
      alignas(64) float sum[kPanel];
      gate_panel(lora_add(lora, row, p, y, sum), l.act + (size_t)row * l.act_stride + p * (kPanel / 2));
    });
    DW_PHASE_ENDS(kPhaseGateUp);
    lora = lora_product(b, places.down, live, l);
    act = quantize_rows(layer.down, live.count, lora, l, team, [&](int row, float*) { return l.act + (size_t)row * l.act_stride; });
    DW_PHASE_ENDS(kPhaseNorm);
  }
  add_to_residual(layer.down, act, lora, live, l, team);
  DW_PHASE_ENDS(kPhaseDown);
}

// ---- language model head ----------------------------------------------------------------------------------------

static void head_rows(const Model& m, const Batch& b, const Outputs& out, const Layout& l, int first, int rows, Team* team,
                      int tid) {
  auto normed = [&](int i, float* scratch) {
    int row = b.output_rows[first + i];
    rms_norm_row(l.x + (size_t)row * l.hidden_stride, m.norm, m.hidden, m.eps, scratch);
    return scratch;
  };
  if (out.hidden)
    for (int i; (i = team_next(team, 1)) < rows;)
      memcpy(out.hidden + (size_t)(first + i) * m.hidden, normed(i, l.row), m.hidden * sizeof(float));
  if (out.hidden) team_barrier(team);
  if (!out.logits && !out.argmax && !out.target_logprobs) return;

  float* best_value = l.best_value + (size_t)tid * b.outputs + first;
  int32_t* best_index = l.best_index + (size_t)tid * b.outputs + first;
  for (int i = 0; i < rows; i++) best_value[i] = -__builtin_inff(), best_index[i] = INT32_MAX;
  Activations x = quantize_rows(m.head, rows, {}, l, team, normed);
  DW_PHASE_ENDS(kPhaseNorm);
  gemm(m.head, x, rows, team, tid, [&](int i, int p, const float* y) {
    int n = min_of(kPanel, m.vocab - p * kPanel);
    if (out.logits) memcpy(out.logits + (size_t)(first + i) * m.vocab + p * kPanel, y, n * sizeof(float));
    if (out.argmax) {
      vf top = load(y);
      if (n == kPanel)
        for (int j = W; j < kPanel; j += W) top = vmax(top, load(y + j));
      if (n < kPanel || reduce_max(top) >= best_value[i])
        for (int j = 0; j < n; j++)
          if (y[j] > best_value[i] || (y[j] == best_value[i] && p * kPanel + j < best_index[i]))
            best_value[i] = y[j], best_index[i] = p * kPanel + j;
    }
    if (out.target_logprobs) {
      alignas(64) float padded[kPanel];
      for (int j = 0; j < kPanel; j++) padded[j] = j < n ? y[j] : -__builtin_inff();
      vf top = load(padded);
      for (int j = W; j < kPanel; j += W) top = vmax(top, load(padded + j));
      float max = reduce_max(top);
      vf sum = vf{};
      for (int j = 0; j < kPanel; j += W) sum += vexp(load(padded + j) - max);
      float* lse = l.lse + ((size_t)i * m.head.panels + p) * 2;
      lse[0] = max, lse[1] = reduce_add(sum);
      int target = out.targets[first + i] - p * kPanel;
      if (target >= 0 && target < n) l.target_logit[i] = y[target];
    }
  });
  if (!out.target_logprobs) return;
  for (int i; (i = team_next(team, 1)) < rows;) {
    const float* lse = l.lse + (size_t)i * m.head.panels * 2;
    float max = -__builtin_inff();
    for (int p = 0; p < m.head.panels; p++) max = lse[2 * p] > max ? lse[2 * p] : max;
    double sum = 0.0;  // panels in order: independent of which thread computed them
    for (int p = 0; p < m.head.panels; p++) sum += (double)(vexp(set1(lse[2 * p] - max))[0] * lse[2 * p + 1]);
    out.target_logprobs[first + i] = (float)((double)l.target_logit[i] - (double)max - __builtin_log(sum));
  }
  team_barrier(team);
}

// The rows at the begin of a step: the tokens' embeddings.
static void embed_rows(const Model& m, const Batch& b, const Layout& l, Team* team) {
  for (int row; (row = team_next(team, 1)) < b.rows;) {
    float* x = l.x + (size_t)row * l.hidden_stride;
    embed_row(m.embed, b.tokens[row], x);
    memset(x + m.hidden, 0, (l.hidden_stride - m.hidden) * sizeof(float));
    for (int s = 0; m.streams && s < m.streams->streams; s++)
      memcpy(streams_of(l, m, row) + (size_t)s * l.hidden_stride, x, l.hidden_stride * sizeof(float));
  }
  team_barrier(team);
}

// The streams of every row where they are joined with those of another model.
static void join_stream_rows(const Model& m, const Batch& b, const Layout& l, Team* team) {
  const JoinLayer& join = *m.join;
  const int count = m.streams->streams;
  Activations embedded = quantize_rows(join.proj, b.rows, {}, l, team, [&](int row, float* scratch) {
    embed_row(m.embed, b.tokens[row], scratch + m.hidden);
    rms_norm_row(scratch + m.hidden, join.embed_norm, m.hidden, m.eps, scratch);
    return scratch;
  });
  gemm(join.proj, embedded, b.rows, team, l.tid, [&](int row, int p, const float* y) {
    memcpy(l.x + (size_t)row * l.hidden_stride + p * kPanel, y, kPanel * sizeof(float));
  });
  Activations states = quantize_rows(join.state_proj, b.rows * count, {}, l, team, [&](int i, float* scratch) {
    rms_norm_row(b.states + (size_t)i * m.hidden, join.state_norm, m.hidden, m.eps, scratch);
    return scratch;
  });
  gemm(join.state_proj, states, b.rows * count, team, l.tid, [&](int i, int p, const float* y) {
    const float* x = l.x + (size_t)(i / count) * l.hidden_stride + p * kPanel;
    float* to = l.streams + (size_t)i * l.hidden_stride + p * kPanel;
    for (int j = 0; j < kPanel; j += W) store(to + j, load(x + j) + load(y + j));
  });
}

// The same where they are joined with the states of another model.
static void join_rows(const Model& m, const Batch& b, const Layout& l, Team* team) {
  if (m.streams) return join_stream_rows(m, b, l, team);
  const JoinLayer& join = *m.join;
  Activations both = quantize_rows(join.proj, b.rows, {}, l, team, [&](int row, float* scratch) {
    embed_row(m.embed, b.tokens[row], scratch + m.hidden);
    rms_norm_row(scratch + m.hidden, join.embed_norm, m.hidden, m.eps, scratch);
    rms_norm_row(b.states + (size_t)row * m.hidden, join.state_norm, m.hidden, m.eps, scratch + m.hidden);
    return scratch;
  });
  gemm(join.proj, both, b.rows, team, l.tid, [&](int row, int p, const float* y) {
    memcpy(l.x + (size_t)row * l.hidden_stride + p * kPanel, y, kPanel * sizeof(float));
  });
}

// What a prediction layer reads of these rows -> `to`: the streams as they are, or the only one after the final norm.
static void keep_states(const Model& m, int rows, const int32_t* index, const Layout& l, Team* team, float* to) {
  const int count = m.streams ? m.streams->streams : 1;
  for (int i; (i = team_next(team, 1)) < rows;) {
    const int row = index ? index[i] : i;
    float* state = to + (size_t)i * count * m.hidden;
    if (!m.streams) rms_norm_row(l.x + (size_t)row * l.hidden_stride, m.norm, m.hidden, m.eps, state);
    for (int s = 0; m.streams && s < count; s++)
      memcpy(state + (size_t)s * m.hidden, streams_of(l, m, row) + (size_t)s * l.hidden_stride, m.hidden * sizeof(float));
  }
  team_barrier(team);
}

static void forward(const Model& m, const Batch& b, const KVCache& cache, const Outputs& out, const Workspace& workspace,
                    Team* team, int tid) {
  DW_STEP_BEGINS(tid, is_decode(b), b.seqs);
  Layout l = layout(m, b, cache, out, workspace.data, team->size, tid);
  if (m.join) join_rows(m, b, l, team);
  else embed_rows(m, b, l, team);
  DW_PHASE_ENDS(kPhaseEmbed);
  int attention_index = 0, last = cache.layers - 1;
  if (b.adapter_of) group_rows(b, nullptr, b.rows, &l.groups);
  Rows live = {b.rows, nullptr, l.groups};
  for (int i = 0; i < m.num_layers; i++) {
    const Layer& layer = m.layers[i];
    if ((layer.attention || layer.latent || layer.compressed) && attention_index == last && b.outputs < b.rows && !out.states) {
      if (b.adapter_of) group_rows(b, b.output_rows, b.outputs, &l.live_groups);
      live = {b.outputs, b.output_rows, l.live_groups};
    }
    if (layer.attention) {
      attention_layer(*layer.attention, attention_index++, layer.lora, m, b, cache, live, l, team);
    } else if (layer.latent) {
      latent_layer(*layer.latent, attention_index++, layer.lora, m, b, cache, live, l, team);
    } else if (layer.compressed) {
      compressed_layer(*layer.compressed, attention_index++, layer.lora, m, b, cache, live, l, team);
    } else if (layer.moe) {
      const MoeLora lora = {b.adapters, b.adapter_of, layer.lora, l.moe_lora, l.lora_stride, l.lora_bytes, l.moe_rows};
      if (layer.moe->hyper) collapse_rows(*layer.moe->hyper, m, live, l, team);
      moe_layer(*layer.moe, l.x, l.hidden_stride, b.tokens, live.index, live.count, lora, l.moe, team, tid);
      if (layer.moe->hyper) expand_rows(*layer.moe->hyper, m, live, l, team);
    } else {
      mlp_layer(*layer.mlp, layer.lora, m, b, live, l, team);
    }
  }
  if (out.states) keep_states(m, b.rows, nullptr, l, team, out.states);
  if (out.output_states) keep_states(m, b.outputs, b.output_rows, l, team, out.output_states);
  if (m.streams) final_streams(m, b, l, team);
  for (int first = 0; first < b.outputs; first += kOutputRows)
    head_rows(m, b, out, l, first, min_of(kOutputRows, b.outputs - first), team, tid);
  if (out.argmax && tid == 0)  // every thread is past the head's barrier
    for (int i = 0; i < b.outputs; i++) {
      float value = l.best_value[i];
      int32_t index = l.best_index[i];
      for (int t = 1; t < team->size; t++) {
        float v = l.best_value[(size_t)t * b.outputs + i];
        int32_t at = l.best_index[(size_t)t * b.outputs + i];
        if (v > value || (v == value && at < index)) value = v, index = at;
      }
      out.argmax[i] = index;
    }
  DW_PHASE_ENDS(kPhaseHead);
}

static size_t workspace_bytes(const Model& m, const Batch& b, const KVCache& cache, const Outputs& out, int threads) {
  return layout(m, b, cache, out, nullptr, threads, 0).used;
}

static size_t matmul_workspace_bytes(const Matrix& w, int m) { return activations_bytes(w, m); }

static void matmul(const Matrix& w, const float* x, int m, float* y, const Workspace& workspace, Team* team, int tid) {
  Activations a = activations_at(workspace.data, w, m);
  for (int r; (r = team_next(team, 1)) < m;) quantize_row(w, x + (size_t)r * w.cols, a, r);
  team_barrier(team);
  gemm(w, a, m, team, tid, [&](int row, int p, const float* from) {
    memcpy(y + (size_t)row * w.rows + p * kPanel, from, min_of(kPanel, w.rows - p * kPanel) * sizeof(float));
  });
}

}  // namespace DW_ISA
}  // namespace deepwell
