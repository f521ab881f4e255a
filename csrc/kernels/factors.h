// Tokens that have left a window, kept as factors: of each segment, layer and KV head
//
//   keys  ~ A B + mean   A: codes of 4 bits [tokens, key_rank], B: [key_rank, head_dim]
//   values ~ C D + mean  C: codes of 4 bits [tokens, value_rank], D: [value_rank, head_dim]
//
// A query is taken to the space of A (q B^T) once a piece, the result back from the space of C once a piece. In between attention is
// over codes (kernels/codes.h). The scales of A and C lie in B and D, one for each column. Codes run from 0 to 15; that they mean -7.5 to
// 7.5 is part of the means. The mean key adds one number to all scores of a query, the mean value one vector to its result.
//
// Keys are kept without their rotation. All tokens of a piece are seen at one place, so the query is turned back by that place and
// the factors stay as they are, however far the window moves on.
//
// NOTE cost. Rank 32 of 64 dimensions: 32 bytes a token and head instead of 256 (bf16), and half of the products; B, D and the
// means of 512 tokens add 17 bytes a token. Codes of 8 bits at half the rank take as much and lose more (docs/log/engine.md).
//
// A head in memory: blocks of 16 tokens { A, C }, B bf16 [dims][key_rank],
// D bf16 [value_rank][dims], means float [dims] each; dims is head_dim padded to 16, with zeros.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
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
  f.block = code_block_bytes(m.key_rank, m.value_rank);
  f.keys = m.tokens / kBlockTokens * f.block;
  f.values = f.keys + (size_t)dims * m.key_rank * 2;
  f.key_mean = f.values + (size_t)dims * m.value_rank * 2;
  f.value_mean = f.key_mean + dims * sizeof(float);
  f.bytes = round_up(f.value_mean + dims * sizeof(float), 64);
  return f;
}

// Where a piece is seen whose first token is `first` of a segment.
DW_INLINE int factor_place(const Memory& m, int segment, int first, int tokens) {
  return max_of(m.first + first + tokens / 2 - (m.count - segment) * m.tokens, m.floor);
}

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
  p.place = factor_place(m, segment, first, p.tokens);
  return p;
}

// Columns [col, col + C W) of out[r] = weights[r] mean + x[r] basis for R rows, x [R][count] and basis [count][cols]. Every sum is one
// chain in the order of `count`. The same columns of `ahead`, if there is one, are asked for meanwhile.
template <int R, int C>
DW_INLINE void basis_columns(const float* x, int count, const uint16_t* basis, const uint16_t* ahead, int cols, int col,
                             const float* mean, const float* weights, float* out) {
  vf sum[R][C] = {};
  if (mean)
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) sum[r][c] = load(mean + col + c * W) * weights[r];
  for (int k = 0; k < count; k++) {
    if (ahead) prefetch((const uint8_t*)(ahead + (size_t)k * cols + col));
    vf b[C];
    for (int c = 0; c < C; c++) b[c] = load_bf16(basis + (size_t)k * cols + col + c * W);
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) sum[r][c] = fma(set1(x[r * count + k]), b[c], sum[r][c]);
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * cols + col + c * W, sum[r][c]);
}

template <int R>
static void basis_rows(const float* x, int count, const uint16_t* basis, const uint16_t* ahead, int cols, const float* mean,
                       const float* weights, float* out) {
  int col = 0;
  for (; col + 2 * W <= cols; col += 2 * W) basis_columns<R, 2>(x, count, basis, ahead, cols, col, mean, weights, out);
  for (; col < cols; col += W) basis_columns<R, 1>(x, count, basis, ahead, cols, col, mean, weights, out);
}

// out [vectors][cols] = weights mean + x basis; `mean` may be null, and so may be the basis that is read next.
static void times_basis(int vectors, const float* x, int count, const uint16_t* basis, const uint16_t* ahead, int cols,
                        const float* mean, const float* weights, float* out) {
  for (int first = 0, n; first < vectors; first += n) {
    const float *from = x + (size_t)first * count, *of = weights + (mean ? first : 0);
    float* to = out + (size_t)first * cols;
    n = min_of(vectors - first, 4);
    if (n == 4) basis_rows<4>(from, count, basis, first ? nullptr : ahead, cols, mean, of, to);
    else if (n == 3) basis_rows<3>(from, count, basis, first ? nullptr : ahead, cols, mean, of, to);
    else if (n == 2) basis_rows<2>(from, count, basis, first ? nullptr : ahead, cols, mean, of, to);
    else basis_rows<1>(from, count, basis, first ? nullptr : ahead, cols, mean, of, to);
  }
}

static float dot_mean(const float* q, const float* mean, int dims) {
  vf sum = vf{};
  for (int d = 0; d < dims; d += W) sum = fma(load(q + d), load(mean + d), sum);
  return reduce_add(sum);
}

// cos and sin [half] of the angles that take a query to the place of a piece; the other way for a key.
static void turn_to_place(const Model& m, int place, int half, float* cos, float* sin) {
  size_t at = (size_t)(place < 0 ? -place : place) * half;
  float whole = 1.0f / m.cos[0], turn = place < 0 ? whole : -whole;  // yarn's factor is in both tables, and in every query already
  for (int i = 0; i < half; i++) cos[i] = m.cos[at + i] * whole, sin[i] = m.sin[at + i] * turn;
}

// `vectors` rotated and scaled query vectors over one piece, in micro-tiles; `done(v, o, softmax)` receives each. `ahead` is the
// piece that the thread takes next, or this one.
template <class Done>
static void attend_factors(const Model& m, const Memory& memory, const float* const* q, int vectors, const FactorPiece& p,
                           const FactorPiece& ahead, int head_dim, const Layout& l, const Done& done) {
  int dims = padded_dims(head_dim), half = head_dim / 2;
  size_t angles = (size_t)(ahead.place < 0 ? -ahead.place : ahead.place) * half;
  for (int i = 0; i < half; i += 16) prefetch((const uint8_t*)(m.cos + angles + i)), prefetch((const uint8_t*)(m.sin + angles + i));
  float *turned = l.factors, *projected = turned + kQueryTile * kMaxHeadDim, *coded = projected + kQueryTile * kMaxHeadDim;
  float *expanded = coded + kQueryTile * kMaxHeadDim, *cos = expanded + kQueryTile * kMaxHeadDim, *sin = cos + half;
  auto bytes = (uint8_t*)(cos + kMaxHeadDim);
  turn_to_place(m, p.place, half, cos, sin);
  int tiles = ceil_div(vectors, kQueryTile);
  for (int tile = 0, first = 0, n; tile < tiles; tile++, first += n) {
    n = ceil_div(vectors - first, tiles - tile);
    Softmax softmax[kQueryTile];
    float sums[kQueryTile];
    for (int r = 0; r < n; r++) {
      float* to = turned + r * dims;
      memcpy(to, q[first + r], head_dim * sizeof(float));
      for (int d = head_dim; d < dims; d++) to[d] = 0.0f;
      rope_head(to, cos, sin, head_dim);
    }
    const bool fetch = tile == 0 && p.keys != ahead.keys;
    times_basis(n, turned, dims, p.keys, fetch ? ahead.keys : nullptr, memory.key_rank, nullptr, nullptr, projected);
    attend_codes(n, projected, p.tokens, p.coded, ahead.tokens == p.tokens ? ahead.coded : p.coded, memory.key_rank,
                 memory.value_rank, l.scratch, bytes, coded, softmax);
    for (int r = 0; r < n; r++) sums[r] = softmax[r].sum;
    times_basis(n, coded, memory.value_rank, p.values, fetch ? ahead.values : nullptr, dims, p.value_mean, sums, expanded);
    for (int r = 0; r < n; r++) {
      softmax[r].max += dot_mean(turned + r * dims, p.key_mean, dims);
      done(first + r, expanded + r * dims, softmax[r]);
    }
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
