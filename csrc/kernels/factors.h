// Tokens that have left a window, kept as factors: of each segment, layer and KV head
//
//   keys  ~ A B + mean   A: codes of 4 bits [tokens, key_rank], B: [key_rank, head_dim]
//   values ~ C D + mean  C: codes of 4 bits [tokens, value_rank], D: [value_rank, head_dim]
//
// A query is taken to the space of A (q B^T) once a piece, the result back from the space of C once a piece. In between a piece is
// one of pages whose heads are `key_rank` and `value_rank` wide: `attend_piece` as it is. The scales of A and C lie in B and D, one
// for each column, so the inner loops multiply by none. Codes run from 0 to 15; that they mean -7.5 to 7.5 is part of the means. The
// mean key adds one number to all scores of a query, the mean value one vector to its result.
//
// Keys are kept without their rotation. All tokens of a piece are seen at one place, so the query is turned back by that place and
// the factors stay as they are, however far the window moves on.
//
// NOTE cost. Rank 32 of 64 dimensions: 32 bytes a token and head instead of 256 (bf16), and half of the products; B, D and the
// means of 512 tokens add 17 bytes a token. Codes of 8 bits at half the rank take as much and lose more (docs/log.md).
//
// A head in memory: blocks of 16 tokens { A [key_rank / 2][16] pairs of dimensions, C [8][value_rank] pairs of tokens }, B bf16 [dims][key_rank],
// D bf16 [value_rank][dims], means float [dims] each; dims is head_dim padded to 16, with zeros.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"
#include "kernels/step.h"

namespace deepwell {
namespace DW_ISA {

struct FactorPiece {  // up to 256 tokens of one segment, layer and KV head
  Piece coded;
  const uint16_t *keys, *values;  // B, D
  const float *key_mean, *value_mean;
  int tokens, place;
};

DW_INLINE int padded_dims(int head_dim) { return round_up(head_dim, kBlockTokens); }

struct FactorLayout {  // offsets in bytes inside a head
  size_t block, keys, values, key_mean, value_mean, bytes;
};

DW_INLINE FactorLayout factor_layout(const Memory& m, int head_dim) {
  int dims = padded_dims(head_dim);
  FactorLayout f;
  f.block = (size_t)kBlockTokens / 2 * (m.key_rank + m.value_rank);
  f.keys = m.tokens / kBlockTokens * f.block;
  f.values = f.keys + (size_t)dims * m.key_rank * 2;
  f.key_mean = f.values + (size_t)dims * m.value_rank * 2;
  f.value_mean = f.key_mean + dims * sizeof(float);
  f.bytes = round_up(f.value_mean + dims * sizeof(float), 64);
  return f;
}

static size_t factor_bytes(const Memory& m, int head_dim) { return factor_layout(m, head_dim).bytes; }

// Piece `piece` of a memory, counted over its segments from the oldest.
static FactorPiece find_factors(const Memory& m, int layer, int kv_head, int head_dim, int piece) {
  int a_segment = pieces_of(m.tokens), segment = piece / a_segment, first = piece % a_segment * kPieceTokens;
  const uint8_t* head = m.segments[segment] + layer * m.layer_bytes + kv_head * m.head_bytes;
  FactorLayout f = factor_layout(m, head_dim);
  FactorPiece p;
  p.tokens = min_of(kPieceTokens, m.tokens - first);
  for (int b = 0; b * kBlockTokens < p.tokens; b++) p.coded.blocks[b] = head + (first / kBlockTokens + b) * f.block;
  p.keys = (const uint16_t*)(head + f.keys), p.values = (const uint16_t*)(head + f.values);
  p.key_mean = (const float*)(head + f.key_mean), p.value_mean = (const float*)(head + f.value_mean);
  p.place = max_of(m.first + first + p.tokens / 2 - (m.count - segment) * m.tokens, m.floor);
  return p;
}

DW_INLINE void prefetch_factors(const Memory& m, const FactorPiece& p, int head_dim) {
  int block = kBlockTokens / 2 * (m.key_rank + m.value_rank);
  for (int i = 0; i < padded_dims(head_dim) * m.key_rank * 2; i += 64) prefetch((const uint8_t*)p.keys + i);
  for (int i = 0; i < min_of(2 * block, p.tokens / kBlockTokens * block); i += 64) prefetch(p.coded.blocks[0] + i);
}

// out[r] = q[r] B for R queries; lanes run over the rank, so every sum is one chain in the order of dimensions.
template <int R>
DW_INLINE void project_queries(const float* q, const uint16_t* basis, int dims, int rank, float* out) {
  for (int j = 0; j < rank; j += W) {
    vf sum[R] = {};
    for (int d = 0; d < dims; d++) {
      vf b = load_bf16(basis + (size_t)d * rank + j);
      for (int r = 0; r < R; r++) sum[r] = fma(set1(q[r * dims + d]), b, sum[r]);
    }
    for (int r = 0; r < R; r++) store(out + r * rank + j, sum[r]);
  }
}

static void project_all(int vectors, const float* q, const uint16_t* basis, int dims, int rank, float* out) {
  int r = 0;
  for (; r + 4 <= vectors; r += 4) project_queries<4>(q + r * dims, basis, dims, rank, out + r * rank);
  for (; r + 2 <= vectors; r += 2) project_queries<2>(q + r * dims, basis, dims, rank, out + r * rank);
  for (; r < vectors; r++) project_queries<1>(q + r * dims, basis, dims, rank, out + r * rank);
}

// out = sum mean + c D, [dims].
static void expand_result(const float* c, float sum, const FactorPiece& p, int rank, int dims, float* out) {
  for (int d = 0; d < dims; d += W) {
    vf o = load(p.value_mean + d) * sum;
    for (int j = 0; j < rank; j++) o = fma(set1(c[j]), load_bf16(p.values + (size_t)j * dims + d), o);
    store(out + d, o);
  }
}

static float dot_mean(const float* q, const float* mean, int dims) {
  vf sum = vf{};
  for (int d = 0; d < dims; d += W) sum = fma(load(q + d), load(mean + d), sum);
  return reduce_add(sum);
}

// `vectors` rotated and scaled query vectors over one piece, in micro-tiles; `done(v, o, softmax)` receives each.
template <class Done>
static void attend_factors(const Model& m, const Memory& memory, const float* const* q, int vectors, const FactorPiece& p,
                           int head_dim, const Layout& l, const Done& done) {
  int dims = padded_dims(head_dim), half = head_dim / 2, place = p.place < 0 ? -p.place : p.place;
  float *turned = l.factors, *projected = turned + kQueryTile * kMaxHeadDim, *coded = projected + kQueryTile * kMaxHeadDim;
  float *expanded = coded + kQueryTile * kMaxHeadDim, *cos = expanded + kQueryTile * kMaxHeadDim, *sin = cos + half;
  for (int i = 0; i < half; i++) {  // yarn's factor is in both tables, and in every query already
    cos[i] = m.cos[(size_t)place * half + i] / m.cos[i];
    float s = m.sin[(size_t)place * half + i] / m.cos[i];
    sin[i] = p.place < 0 ? s : -s;
  }
  int tiles = ceil_div(vectors, kQueryTile);
  for (int tile = 0, first = 0, n; tile < tiles; tile++, first += n) {
    n = ceil_div(vectors - first, tiles - tile);
    const float* queries[kQueryTile];
    float* out[kQueryTile];
    Softmax softmax[kQueryTile];
    int visible[kQueryTile];
    for (int r = 0; r < n; r++) {
      float* to = turned + r * dims;
      memcpy(to, q[first + r], head_dim * sizeof(float));
      for (int d = head_dim; d < dims; d++) to[d] = 0.0f;
      rope_head(to, cos, sin, head_dim);
      queries[r] = projected + r * memory.key_rank, out[r] = coded + r * memory.value_rank, visible[r] = p.tokens;
    }
    project_all(n, turned, p.keys, dims, memory.key_rank, projected);
    attend<Nibbles>(n, queries, visible, p.coded, memory.key_rank, memory.value_rank, l.scratch, out, softmax);
    for (int r = 0; r < n; r++) {
      softmax[r].max += dot_mean(turned + r * dims, p.key_mean, dims);
      expand_result(out[r], softmax[r].sum, p, memory.value_rank, dims, expanded + r * dims);
      done(first + r, expanded + r * dims, softmax[r]);
    }
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
