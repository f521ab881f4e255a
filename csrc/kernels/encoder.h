// One step of an encoder over a ragged batch: whole sequences, no padding, no cache.
//
// Sequences do not see each other, so with enough of them no thread waits for another: each takes a group of sequences (kGroupRows
// rows) through all layers alone. Its rows stay in the second-level cache, and the weights of a layer (1.8 MB for MiniLM) are read
// once a group. With few sequences all threads share one group and meet at barriers, as in a decoder's step. Both run the same
// functions: alone, a thread is a team of one. Products, norms and attention give a row the same bits in either case.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "encoder_model.h"
#include "integers.h"
#include "kernels/arena.h"
#include "kernels/attention.h"
#include "kernels/attention_tiles.h"
#include "kernels/gemm.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kGroupRows = 192;    // rows that one thread takes through all layers
constexpr int kGeluRows = 64;      // rows whose activated columns wait for their scale
constexpr int kGeluColumns = 64;   // two panels: one group of int8, two of int4

// erf to 2e-7: an odd rational function on [-3.8325, 3.8325], beyond which float32 has 1 (the coefficients of XLA's ErfImpl32).
DW_INLINE vf verf(vf x) {
  const float limit = 3.832506856900711f;
  x = select(x > limit, set1(limit), x);
  x = select(x < -limit, set1(-limit), x);
  vf s = x * x;
  vf p = set1(0.00022905065861350646f);
  p = fma(p, s, set1(0.0034082910107109506f));
  p = fma(p, s, set1(0.050955695062380861f));
  p = fma(p, s, set1(0.18520832239976145f));
  p = fma(p, s, set1(1.128379143519084f));
  vf q = set1(-1.1791602954361697e-7f);
  q = fma(q, s, set1(0.000023547966471313185f));
  q = fma(q, s, set1(0.0010179625278914885f));
  q = fma(q, s, set1(0.014070470171167667f));
  q = fma(q, s, set1(0.11098505178285362f));
  q = fma(q, s, set1(0.49746925110067538f));
  q = fma(q, s, set1(1.0f));
  return x * p / q;
}

DW_INLINE vf gelu(vf x) {
  vf half = x * 0.5f;
  return fma(half, verf(x * 0.70710678118654752f), half);
}

// x = (x - mean) / sqrt(variance + eps) * weight + shift, in place.
static void layer_norm_row(float* x, const float* weight, const float* shift, int n, float eps) {
  vf sums[2] = {};
  int i = 0;
  for (; i + 2 * W <= n; i += 2 * W)
    for (int j = 0; j < 2; j++) sums[j] += load(x + i + j * W);
  float total = reduce_add(sums[0] + sums[1]);
  for (; i < n; i++) total += x[i];
  float mean = total / (float)n;
  vf squares[2] = {};
  for (i = 0; i + 2 * W <= n; i += 2 * W)
    for (int j = 0; j < 2; j++) {
      vf v = load(x + i + j * W) - mean;
      squares[j] = fma(v, v, squares[j]);
    }
  float spread = reduce_add(squares[0] + squares[1]);
  for (; i < n; i++) spread = fma1(x[i] - mean, x[i] - mean, spread);
  float scale = 1.0f / __builtin_sqrtf(spread / (float)n + eps);
  for (i = 0; i + W <= n; i += W) store(x + i, fma((load(x + i) - mean) * scale, load(weight + i), load(shift + i)));
  for (; i < n; i++) x[i] = fma1((x[i] - mean) * scale, weight[i], shift[i]);
}

// Where the rows of one group lie, and the scratch of one thread.
struct EncoderLayout {
  size_t used;
  int x_stride, qkv_stride;
  float *x, *qkv;
  uint8_t *narrow, *wide;  // activations of `hidden` and of `intermediate` columns
  float* gelu;             // this thread's: [kGeluRows][kGeluColumns]
  float* keys;             // [blocks of 16 tokens]{keys [head_dim][16], values [16][head_dim]}
  float* queries;          // [kQueryTile][head_dim], scaled
  float* piece;            // [kQueryTile][head_dim]
  float* out;              // [kQueryTile][head_dim]
  float* scores;           // [kQueryTile][kPieceTokens]
  float* tiles;            // of `TileRows`, and behind it results of as many queries
};

// How the batch is cut: groups of whole sequences, each thread alone, or one group for the team.
struct EncoderShape {
  int longest;      // tokens of the longest sequence
  int group_rows;   // rows of the largest group
  bool alone;
};

// The sequence behind the last of the group that begins with `first`.
DW_INLINE int group_end(const EncoderBatch& b, int first, int limit) {
  int s = first + 1;
  while (s < b.seqs && b.seq_starts[s + 1] - b.seq_starts[first] <= limit) s++;
  return s;
}

// Few rows make small groups, so that every thread gets some; below 64 rows products slow down.
DW_INLINE int group_limit(const EncoderBatch& b, int threads) {
  return max_of(64, min_of(kGroupRows, b.rows / (4 * threads)));
}

static EncoderShape encoder_shape(const EncoderBatch& b, int threads) {
  EncoderShape shape = {0, 0, false};
  for (int s = 0; s < b.seqs; s++) shape.longest = max_of(shape.longest, b.seq_starts[s + 1] - b.seq_starts[s]);
  int groups = 0, limit = group_limit(b, threads);
  for (int s = 0; s < b.seqs; groups++) {
    int end = group_end(b, s, limit);
    shape.group_rows = max_of(shape.group_rows, b.seq_starts[end] - b.seq_starts[s]);
    s = end;
  }
  shape.alone = threads == 1 || groups >= 2 * threads;
  if (!shape.alone) shape.group_rows = b.rows;
  return shape;
}

static EncoderLayout encoder_layout(const EncoderModel& m, const EncoderShape& shape, uint8_t* base, int threads, int tid) {
  EncoderLayout l;
  Arena arena(base);
  const EncoderAttentionLayer& attention = *m.blocks[0].attention;
  const EncoderMlpLayer& mlp = *m.blocks[0].mlp;
  l.x_stride = round_up(m.hidden, kPanel);
  l.qkv_stride = attention.qkv.panels * kPanel;
  size_t tile = (size_t)kQueryTile * attention.head_dim, blocks = ceil_div(shape.longest, kBlockTokens);
  for (int t = 0; t < threads; t++) {
    if (shape.alone || t == 0) {
      float* x = arena.take<float>((size_t)shape.group_rows * l.x_stride);
      float* qkv = arena.take<float>((size_t)shape.group_rows * l.qkv_stride);
      uint8_t* narrow = arena.take<uint8_t>(activations_bytes(attention.qkv, shape.group_rows));
      uint8_t* wide = arena.take<uint8_t>(activations_bytes(mlp.down, shape.group_rows));
      if (t == tid || t == 0) l.x = x, l.qkv = qkv, l.narrow = narrow, l.wide = wide;
    }
    float* gelu_rows = arena.take<float>(kGeluRows * kGeluColumns);
    float* keys = arena.take<float>(blocks * kBlockTokens * attention.head_dim * 2);
    float* tiles = arena.take<float>(3 * tile);
    float* scores = arena.take<float>((size_t)kQueryTile * kPieceTokens);
#if defined(DW_TILES)
    float* rows = arena.take<float>(tile_rows_floats(attention.head_dim) + (size_t)kQueriesAtOnce * attention.head_dim);
    if (t == tid) l.tiles = rows;
#endif
    if (t == tid) l.gelu = gelu_rows, l.keys = keys, l.queries = tiles, l.piece = tiles + tile, l.out = tiles + 2 * tile, l.scores = scores;
  }
  l.used = arena.used();
  return l;
}

// The sequences of one group, its rows counted from 0.
struct Group {
  const EncoderBatch& batch;
  int first, end;  // sequences

  int start(int s) const { return batch.seq_starts[s] - batch.seq_starts[first]; }
  int rows() const { return start(end); }
};

template <class F>
DW_INLINE void each_row(int rows, Team* team, const F& f) {
  const int chunk = 8;
  for (int row; (row = team_next(team, chunk)) < rows;)
    for (int r = row; r < min_of(row + chunk, rows); r++) f(r);
  team_barrier(team);
}

#if defined(DW_TILES)
// Keys and values of `tokens` rows, rounded to bf16: a piece in pairs.
static void pair_rows(const float* k, const float* v, int stride, int dim, int tokens, int32_t* to) {
  alignas(64) uint16_t low[kBlockTokens * kTileDims], high[kTileDims];
  for (int t0 = 0; t0 < tokens; t0 += kBlockTokens)
    for (int d = 0; d < dim; d += kTileDims, to += kTileDims / 2 * kBlockTokens) {
      const int n = min_of(tokens - t0, kBlockTokens);
      if (n < kBlockTokens) memset(low, 0, sizeof low);
      for (int t = 0; t < n; t++)
        for (int i = 0; i < kTileDims; i += W) narrow_bf16(low + t * kTileDims + i, load(k + (size_t)(t0 + t) * stride + d + i));
      turn_words(low, to);
    }
  for (int d = 0; d < dim; d += kTileDims)
    for (int t = 0; t < round_up(tokens, kTileDims); t += 2, to += kTileDims) {
      const float* row = v + (size_t)t * stride + d;
      for (int i = 0; i < kTileDims; i += W) {
        narrow_bf16(low + i, t < tokens ? load(row + i) : vf{});
        narrow_bf16(high + i, t + 1 < tokens ? load(row + stride + i) : vf{});
      }
      interleave32(low, high, to);
    }
}

// `attend_head` as tiles, for any number of tokens: a sequence's result does not depend on its companions.
static void attend_head_tiled(const EncoderAttentionLayer& a, const EncoderLayout& l, int start, int tokens, int head) {
  const int dim = a.head_dim, hidden = a.heads * dim, pieces = pieces_of(tokens);
  float* q = l.qkv + (size_t)start * l.qkv_stride + head * dim;
  auto words_of = [&](int p) { return (int32_t*)l.keys + p * paired_words(dim, kPieceTokens); };
  auto tokens_of = [&](int p) { return min_of(kPieceTokens, tokens - p * kPieceTokens); };
  for (int p = 0; p < pieces; p++) {
    const float* k = q + hidden + (size_t)p * kPieceTokens * l.qkv_stride;
    pair_rows(k, k + hidden, l.qkv_stride, dim, tokens_of(p), words_of(p));
  }
  const float scale = 1.0f / __builtin_sqrtf((float)dim);
  float* out = l.tiles + tile_rows_floats(dim);
  for (int first = 0; first < tokens; first += kQueriesAtOnce) {
    const int vectors = min_of(kQueriesAtOnce, tokens - first);
    const float* queries[kQueriesAtOnce];
    int visible[kQueriesAtOnce];
    Softmax total[kQueriesAtOnce];
    for (int v = 0; v < vectors; v++) {
      float* query = q + (size_t)(first + v) * l.qkv_stride;
      scale_row(query, scale, dim);
      queries[v] = query;
      total[v] = {-__builtin_inff(), 0.0f};
    }
    memset(out, 0, (size_t)vectors * dim * sizeof(float));
    for (int p = 0; p < pieces; p++) {
      for (int v = 0; v < vectors; v++) visible[v] = tokens_of(p);
      attend_tiled(queries, visible, vectors, paired_at(words_of(p), dim, tokens_of(p)), dim, tile_rows_at(l.tiles, dim),
                   [&](int v, const float* from, Softmax part) { merge_piece(out + v * dim, total + v, from, part, dim); });
    }
    for (int v = 0; v < vectors; v++) {
      float* row = q + (size_t)(first + v) * l.qkv_stride;
      memcpy(row, out + v * dim, dim * sizeof(float));
      scale_row(row, 1.0f / total[v].sum, dim);
    }
  }
}
#endif

// One head of one sequence; the result replaces the head's queries.
static void attend_head(const EncoderAttentionLayer& a, const EncoderLayout& l, int start, int tokens, int head) {
#if defined(DW_TILES)
  const bool rounded = a.qkv.scheme == kInt8 || a.qkv.scheme == kInt4;  // other weights promise more digits than bf16 has
  if (tile_state.on && rounded && a.head_dim % kTileDims == 0) return attend_head_tiled(a, l, start, tokens, head);
#endif
  int dim = a.head_dim, hidden = a.heads * dim;
  float* q = l.qkv + (size_t)start * l.qkv_stride + head * dim;
  size_t block_floats = (size_t)2 * kBlockTokens * dim;
  for (int first = 0; first < tokens; first += kBlockTokens) {
    float* keys = l.keys + first / kBlockTokens * block_floats;
    float* values = keys + (size_t)kBlockTokens * dim;
    int n = min_of(kBlockTokens, tokens - first);
    const float* k = q + hidden + (size_t)first * l.qkv_stride;
    if (n < kBlockTokens) memset(keys, 0, kBlockTokens * dim * sizeof(float));
    for (int t = 0; t < n; t++, k += l.qkv_stride) {
      for (int d = 0; d < dim; d++) keys[d * kBlockTokens + t] = k[d];
      memcpy(values + (size_t)t * dim, k + hidden, dim * sizeof(float));
    }
  }
  float scale = 1.0f / __builtin_sqrtf((float)dim);
  for (int first = 0; first < tokens; first += kQueryTile) {
    int vectors = min_of(kQueryTile, tokens - first);
    const float* queries[kQueryTile];
    float *piece_out[kQueryTile], *rows[kQueryTile];
    Softmax total[kQueryTile];
    for (int v = 0; v < vectors; v++) {
      float* query = l.queries + v * dim;
      rows[v] = q + (size_t)(first + v) * l.qkv_stride;
      memcpy(query, rows[v], dim * sizeof(float));
      scale_row(query, scale, dim);
      queries[v] = query;
      piece_out[v] = l.piece + v * dim;
      total[v] = {-__builtin_inff(), 0.0f};
    }
    memset(l.out, 0, (size_t)vectors * dim * sizeof(float));
    for (int from = 0; from < tokens; from += kPieceTokens) {
      int seen = min_of(kPieceTokens, tokens - from), visible[kQueryTile];
      Piece piece;
      for (int b = 0; b * kBlockTokens < seen; b++)
        piece.blocks[b] = (const uint8_t*)(l.keys + (size_t)(from / kBlockTokens + b) * block_floats);
      Softmax softmax[kQueryTile];
      for (int v = 0; v < vectors; v++) visible[v] = seen;
      attend<float>(vectors, queries, visible, piece, dim, dim, l.scores, piece_out, softmax);
      for (int v = 0; v < vectors; v++) merge_piece(l.out + v * dim, total + v, piece_out[v], softmax[v], dim);
    }
    for (int v = 0; v < vectors; v++) {
      memcpy(rows[v], l.out + v * dim, dim * sizeof(float));
      scale_row(rows[v], 1.0f / total[v].sum, dim);
    }
  }
}

static void add_biased(const Matrix& w, const Activations& a, const float* bias, int rows, const EncoderLayout& l, Team* team,
                       int tid) {
  gemm(w, a, rows, team, tid, [&](int row, int p, const float* y) {
    float* x = l.x + (size_t)row * l.x_stride + p * kPanel;
    for (int i = 0; i < kPanel; i += W) store(x + i, load(x + i) + (load(y + i) + load(bias + p * kPanel + i)));
  });
}

static void encoder_attention(const EncoderAttentionLayer& a, const Group& g, const EncoderLayout& l, Team* team, int tid) {
  int rows = g.rows();
  gemm(a.qkv, activations_at(l.narrow, a.qkv, rows), rows, team, tid, [&](int row, int p, const float* y) {
    float* to = l.qkv + (size_t)row * l.qkv_stride + p * kPanel;
    for (int i = 0; i < kPanel; i += W) store(to + i, load(y + i) + load(a.qkv_bias + p * kPanel + i));
  });
  int items = (g.end - g.first) * a.heads;
  for (int item; (item = team_next(team, 1)) < items;) {
    int s = g.first + item / a.heads;
    attend_head(a, l, g.start(s), g.start(s + 1) - g.start(s), item % a.heads);
  }
  team_barrier(team);
  Activations attended = activations_at(l.narrow, a.o, rows);
  each_row(rows, team, [&](int r) { quantize_row(a.o, l.qkv + (size_t)r * l.qkv_stride, attended, r); });
  add_biased(a.o, attended, a.o_bias, rows, l, team, tid);
}

// Columns [64 * pair, 64 * pair + 64) of a row of `down`'s input, quantised: whole groups, so the bits of `quantize_row`.
DW_INLINE void quantize_columns(const Matrix& down, const float* x, const Activations& a, int row, int pair) {
  int first = pair * kGeluColumns;
  Matrix part = down;
  part.cols = min_of(kGeluColumns, down.cols - first);
  part.groups = ceil_div(part.cols, down.group);
  Activations view = a;
  view.bytes += (size_t)first * activation_bytes(down) / 4;
  view.scale += first / down.group;
  view.sum += first / down.group;
  quantize_row(part, x, view, row);
}

// up, then GELU and quantisation of each finished pair of panels: the activated rows never leave the first-level cache as floats.
static void encoder_mlp(const EncoderMlpLayer& layer, const Group& g, const EncoderLayout& l, Team* team, int tid) {
  int rows = g.rows(), pairs = (layer.up.panels + 1) / 2;
  Activations in = activations_at(l.narrow, layer.up, rows), out = activations_at(l.wide, layer.down, rows);
  int items = ceil_div(rows, kGeluRows) * pairs;
  for (int item; (item = team_next(team, 1)) < items;) {
    int pair = item % pairs, first = item / pairs * kGeluRows, end = min_of(first + kGeluRows, rows);
    auto activate = [&](int row, int p, const float* y) {
      float* to = l.gelu + (size_t)(row - first) * kGeluColumns + p % 2 * kPanel;
      for (int i = 0; i < kPanel; i += W) store(to + i, gelu(load(y + i) + load(layer.up_bias + p * kPanel + i)));
    };
    for (int p = 2 * pair; p < min_of(2 * pair + 2, layer.up.panels); p++) {
      if (layer.up.scheme == kInt8) panel_rows<kInt8>(layer.up, p, in, first, end, activate);
      else if (layer.up.scheme == kInt4) panel_rows<kInt4>(layer.up, p, in, first, end, activate);
      else panel_rows<kFp32>(layer.up, p, in, first, end, activate);
    }
    for (int row = first; row < end; row++)
      quantize_columns(layer.down, l.gelu + (size_t)(row - first) * kGeluColumns, out, row, pair);
  }
  team_barrier(team);
  add_biased(layer.down, out, layer.down_bias, rows, l, team, tid);
}

static void encode_group(const EncoderModel& m, const Group& g, const EncoderOutputs& out, const EncoderLayout& l, Team* team,
                         int tid) {
  int rows = g.rows(), base = g.batch.seq_starts[g.first];
  // Norm and quantisation of a row in one pass: `next` is the matrix that reads it, null after the last layer.
  auto finish_row = [&](int r, const float* norm, const float* shift, float eps, const Matrix* next) {
    float* x = l.x + (size_t)r * l.x_stride;
    layer_norm_row(x, norm, shift, m.hidden, eps);
    if (next) quantize_row(*next, x, activations_at(l.narrow, *next, rows), r);
  };
  for (int s; (s = team_next(team, 1)) < g.end - g.first;) {
    for (int r = g.start(g.first + s), position = 0; r < g.start(g.first + s + 1); r++, position++) {
      float* x = l.x + (size_t)r * l.x_stride;
      const float* at = m.positions + (size_t)position * m.hidden;
      embed_row(m.embed, g.batch.tokens[base + r], x);
      for (int i = 0; i < m.hidden; i++) x[i] += at[i];
      memset(x + m.hidden, 0, (l.x_stride - m.hidden) * sizeof(float));
      finish_row(r, m.norm, m.shift, m.eps, &m.blocks[0].attention->qkv);
    }
  }
  team_barrier(team);
  for (int i = 0; i < m.num_blocks; i++) {
    const EncoderAttentionLayer& attention = *m.blocks[i].attention;
    const EncoderMlpLayer& mlp = *m.blocks[i].mlp;
    const Matrix* next = i + 1 < m.num_blocks ? &m.blocks[i + 1].attention->qkv : nullptr;
    encoder_attention(attention, g, l, team, tid);
    each_row(rows, team, [&](int r) { finish_row(r, attention.norm, attention.shift, attention.eps, &mlp.up); });
    encoder_mlp(mlp, g, l, team, tid);
    each_row(rows, team, [&](int r) { finish_row(r, mlp.norm, mlp.shift, mlp.eps, next); });
  }
  if (out.hidden)
    each_row(rows, team, [&](int r) {
      memcpy(out.hidden + (size_t)(base + r) * m.hidden, l.x + (size_t)r * l.x_stride, m.hidden * sizeof(float));
    });
  if (!out.pooled) return;
  for (int s; (s = team_next(team, 1)) < g.end - g.first;) {
    int start = g.start(g.first + s), tokens = m.pooling == kMeanPooling ? g.start(g.first + s + 1) - start : 1;
    float* pooled = out.pooled + (size_t)(g.first + s) * m.hidden;
    memset(pooled, 0, m.hidden * sizeof(float));
    for (int t = 0; t < tokens; t++) {  // the mean's divisor cancels in the unit length
      const float* x = l.x + (size_t)(start + t) * l.x_stride;
      for (int i = 0; i < m.hidden; i++) pooled[i] += x[i];
    }
    double squares = 0.0;
    for (int i = 0; i < m.hidden; i++) squares += (double)pooled[i] * pooled[i];
    scale_row(pooled, squares > 0.0 ? (float)(1.0 / __builtin_sqrt(squares)) : 0.0f, m.hidden);
  }
  team_barrier(team);
}

static void encode(const EncoderModel& m, const EncoderBatch& b, const EncoderOutputs& out, const Workspace& workspace,
                   Team* team, int tid) {
  EncoderShape shape = encoder_shape(b, team->size);
  EncoderLayout l = encoder_layout(m, shape, workspace.data, team->size, tid);
  if (!shape.alone) return encode_group(m, Group{b, 0, b.seqs}, out, l, team, tid);
  Team solo = {};
  solo.size = 1;
  int limit = group_limit(b, team->size), mine = team_next(team, 1);
  for (int first = 0, index = 0; first < b.seqs; index++) {
    int end = group_end(b, first, limit);
    if (index == mine) {
      encode_group(m, Group{b, first, end}, out, l, &solo, 0);
      mine = team_next(team, 1);
    }
    first = end;
  }
}

static size_t encoder_workspace_bytes(const EncoderModel& m, const EncoderBatch& b, int threads) {
  return encoder_layout(m, encoder_shape(b, threads), nullptr, threads, 0).used;
}

}  // namespace DW_ISA
}  // namespace deepwell
