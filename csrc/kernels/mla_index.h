// The lightning indexer of DeepSeek-V3.2.
//
// A row that sees more than `top_k` tokens attends to those of largest index score alone, of equal ones to the earlier, by the absorbed
// path: expanding keys that are then left out would cost more than it saves. Whether a row is such a row is decided by its position.
// Scores go through the tiles of mla.h, heads of the indexer in the lanes; the chosen latents are gathered into blocks of the
// same layout, so attention itself knows nothing of the choice. Where all visible tokens would be chosen nothing is gathered, and
// the bits are the same.
#pragma once
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/mla.h"
#include "kernels/mla_layout.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "kernels/step.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

constexpr float kIndexNormEps = 1e-6f;

// LayerNorm, then rotation of the first `rope` dimensions; x: [head_dim] in place.
static void prepare_index_key(const IndexerLayer& index, float* x, int rope, const float* cos, const float* sin) {
  int n = index.head_dim;
  float mean = 0.0f, variance = 0.0f;
  for (int i = 0; i < n; i++) mean += x[i];
  mean /= (float)n;
  for (int i = 0; i < n; i++) variance = fma1(x[i] - mean, x[i] - mean, variance);
  float scale = 1.0f / __builtin_sqrtf(variance / (float)n + kIndexNormEps);
  for (int i = 0; i < n; i++) x[i] = fma1((x[i] - mean) * scale, index.k_norm[i], index.k_shift[i]);
  rope_head(x, cos, sin, rope);
}

static void write_index_key(const LatentDims& d, uint8_t* block, int slot, const float* key) {
  size_t at = (size_t)slot * d.index;
  if (d.type == kKvFp32) store_runs((float*)(block + d.index_bytes) + at, key, d.index);
  else store_runs((uint16_t*)(block + d.index_bytes) + at, key, d.index);
}

// Queries of the sparse rows by lane groups, and the weights of their heads, scaled.
static void prepare_index_queries(const LatentLayer& a, const Model& m, const Batch& b, int absorbed, const Layout& l, Team* team) {
  const LatentLayout& t = l.latent;
  const IndexerLayer& x = *a.indexer;
  int groups = index_groups(x);
  float scale = 1.0f / (__builtin_sqrtf((float)x.heads) * __builtin_sqrtf((float)x.head_dim));
  for (int i; (i = team_next(team, 1)) < absorbed;) {
    int row = t.absorbed[i], position = b.positions[row];
    if (!is_sparse_row(a, b, row)) continue;
    const float* cos = m.cos + (size_t)position * (a.rope / 2);
    const float* sin = m.sin + (size_t)position * (a.rope / 2);
    float* lanes = t.index_lanes + (size_t)i * groups * t.dims.index * kLanes;
    float* weights = t.index_weights + (size_t)i * groups * kLanes;
    memset(lanes, 0, (size_t)groups * t.dims.index * kLanes * sizeof(float));
    memset(weights, 0, (size_t)groups * kLanes * sizeof(float));
    rms_norm_row(l.x + (size_t)row * l.hidden_stride, a.norm, m.hidden, a.eps, l.row);
    for (int head = 0; head < x.heads; head++) {
      float* q = t.index_q + (size_t)row * t.index_q_stride + head * x.head_dim;
      rope_head(q, cos, sin, a.rope);
      float* to = lanes + (size_t)(head / kLanes) * t.dims.index * kLanes + head % kLanes;
      for (int d = 0; d < x.head_dim; d++) to[d * kLanes] = q[d];
      const float* w = x.weights + (size_t)head * m.hidden;
      vf sum = vf{};
      int k = 0;
      for (; k + W <= m.hidden; k += W) sum = fma(load(l.row + k), load(w + k), sum);
      float total = reduce_add(sum);
      for (; k < m.hidden; k++) total = fma1(l.row[k], w[k], total);
      weights[head] = total * scale;
    }
  }
  team_barrier(team);
}

// Index scores of one sparse row for one piece of its context.
static void score_index_piece(const LatentLayer& a, const Batch& b, const KVCache& cache, int index, int i, int piece, const Layout& l) {
  const LatentLayout& t = l.latent;
  int groups = index_groups(*a.indexer), start = piece * kPieceTokens;
  int tokens = min_of(kPieceTokens, b.positions[t.absorbed[i]] + 1 - start);
  LatentPiece data = find_latents(cache, index, b.block_tables + (size_t)t.absorbed_seq[i] * b.max_blocks, piece, tokens);
  LaneQueries queries[kRunUnits];
  int visible[kRunUnits];
  float* out = t.index_scores + (size_t)i * t.index_scores_stride + start;
  for (int first = 0; first < groups; first += kRunUnits) {
    int count = min_of(kRunUnits, groups - first);
    for (int g = 0; g < count; g++) {
      queries[g].latent = t.index_lanes + ((size_t)i * groups + first + g) * t.dims.index * kLanes;
      visible[g] = tokens;
    }
    LaneGroups all = {count, queries, visible, t.scores};
    auto of = [](const LaneQueries& q) { return (const float*)q.latent; };
    if (t.dims.type == kKvFp32) float_scores<float>(data, t.dims.index_bytes, t.dims.index, t.dims.index, all, t.widened, true, of);
    else float_scores<uint16_t>(data, t.dims.index_bytes, t.dims.index, t.dims.index, all, t.widened, true, of);
    for (int token = 0; token < tokens; token++) {
      vf sum = vf{};
      for (int g = 0; g < count; g++)
        for (int v = 0; v < kLanes; v += W) {
          vf s = load(t.scores + (size_t)g * kGroupScores + token * kLanes + v);
          sum = fma(vmax(s, vf{}), load(t.index_weights + ((size_t)i * groups + first + g) * kLanes + v), sum);
        }
      out[token] = (first ? out[token] : 0.0f) + reduce_add(sum);  // also makes +0 of -0, which ranks below it
    }
  }
}

// Floats in the order of unsigned integers.
DW_INLINE uint32_t rank_bits(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

// The positions of the `count` largest of `n` scores, ascending; of equal ones the first. The smallest that is taken is found a byte
// at a time.
static void choose_tokens(const float* scores, int n, int count, int32_t* chosen) {
  uint32_t prefix = 0;
  int left = count;  // to be taken among those that share the prefix
  for (int shift = 24; shift >= 0; shift -= 8) {
    int32_t counts[256] = {};
    for (int i = 0; i < n; i++) {
      uint32_t bits = rank_bits(scores[i]);
      if (shift == 24 || bits >> (shift + 8) == prefix >> (shift + 8)) counts[bits >> shift & 255]++;
    }
    int byte = 255;
    while (counts[byte] < left) left -= counts[byte--];
    prefix |= (uint32_t)byte << shift;
  }
  for (int i = 0, k = 0; k < count; i++) {
    uint32_t bits = rank_bits(scores[i]);
    if (bits > prefix || (bits == prefix && left-- > 0)) chosen[k++] = i;
  }
}

// For every absorbed row that needs it: which tokens it attends to.
static void choose_rows(const LatentLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int absorbed,
                        const Layout& l, Team* team) {
  const LatentLayout& t = l.latent;
  prepare_index_queries(a, m, b, absorbed, l, team);
  int most_pieces = t.index_scores_stride / kPieceTokens;
  for (int item; (item = team_next(team, 1)) < absorbed * most_pieces;) {
    int i = item / most_pieces, piece = item % most_pieces, row = t.absorbed[i];
    if (is_sparse_row(a, b, row) && piece < pieces_of(b.positions[row] + 1)) score_index_piece(a, b, cache, index, i, piece, l);
  }
  team_barrier(team);
  for (int i; (i = team_next(team, 1)) < absorbed;) {
    int row = t.absorbed[i];
    if (is_sparse_row(a, b, row))
      choose_tokens(t.index_scores + (size_t)i * t.index_scores_stride, b.positions[row] + 1, a.indexer->top_k,
                    t.chosen + (size_t)i * a.indexer->top_k);
  }
  team_barrier(team);
}

// Chosen tokens as blocks of their own.
static LatentPiece gather_latents(const LatentDims& d, const KVCache& c, int layer, const int32_t* table, const int32_t* chosen, int tokens,
                                  uint8_t* memory) {
  LatentPiece p;
  size_t row_bytes = (size_t)d.all * (d.type == kKvFp32 ? 4 : 2);
  for (int b = 0; b * kBlockTokens < tokens; b++) p.blocks[b] = memory + b * round_up(d.index_bytes, 64);
  for (int i = 0; i < tokens; i++) {
    const uint8_t* from = latent_block(c, layer, table[chosen[i] / kBlockTokens]);
    uint8_t* to = (uint8_t*)p.blocks[i / kBlockTokens];
    int at = chosen[i] % kBlockTokens, slot = i % kBlockTokens;
    if (d.type != kKvInt8) {
      memcpy(to + slot * row_bytes, from + at * row_bytes, row_bytes);
      continue;
    }
    const uint8_t* x = from + (size_t)(at / 2) * d.rank * 2 + at % 2;
    uint8_t* y = to + (size_t)(slot / 2) * d.rank * 2 + slot % 2;
    for (int k = 0; k < d.rank; k++) y[2 * k] = x[2 * k];
    memcpy(to + d.rope_bytes + (size_t)slot * d.rope * 2, from + d.rope_bytes + (size_t)at * d.rope * 2, (size_t)d.rope * 2);
    ((float*)(to + d.scale_bytes))[slot] = ((const float*)(from + d.scale_bytes))[at];
  }
  return p;
}

}  // namespace DW_ISA
}  // namespace deepwell
