// Attention to pages of bf16 on AMX: many query vectors as tiles, few as vectors of floats with the same bits.
//
// Queries and softmax weights are rounded to bf16, as keys and values are. `tdpbf16ps` adds up the products of even and of odd positions of
// 32 apart, each from zero and with one rounding a product, then both sums, then what was there. A score is such a chain over the
// dimensions and an output one over the tokens of a piece; the vectors of decode keep that order, so a query's result has the same bits
// in prefill, in decode and in any batch. Only numbers below 1e-38, which tiles take for zero, could differ.
//
// Tiles want pairs: of a key's dimensions for each token, and of tokens for each dimension of the values. A tile of rows makes them
// once from a piece and all its vectors read them.
//
// NOTE cost. 96 vectors, a piece of 256 tokens, head_dim 64: 6,000 cycles for products, 2,500 for the pairs, 14,000 for the softmax (32 * 256 / 16
// exponentials a tile, seven cycles each); vectors of floats take 100,000 for the products alone.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/attention_pairs.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"
#include "kernels/tiles.h"

#if defined(DW_TILES)
namespace deepwell {
namespace DW_ISA {

constexpr int kQueriesAtOnce = 2 * kTile;           // query vectors at a time
constexpr int kScoreStride = kPieceTokens + 16;   // floats from one vector's scores to the next: not a power of two

// What kQueriesAtOnce vectors take beside the piece, in floats; and words of a piece in pairs.
constexpr size_t tile_rows_floats(int head_dim) { return (size_t)kQueriesAtOnce * (head_dim / 2 + kScoreStride + head_dim); }
constexpr size_t paired_words(int head_dim, int tokens) {
  return (size_t)(round_up(tokens, kBlockTokens) + round_up(tokens, kTileDims)) / 2 * head_dim;
}
static_assert(tile_rows_floats(kTileDims) + paired_words(kTileDims, kPieceTokens) <= attention_scratch_floats(kTileDims));

struct TileRows {
  uint16_t* queries;  // [kQueriesAtOnce][head_dim]
  float* scores;      // [kQueriesAtOnce][kScoreStride]; the weights as bf16 in place
  float* out;         // [kQueriesAtOnce][head_dim]
};

static TileRows tile_rows_at(float* at, int head_dim) {
  TileRows s;
  s.queries = (uint16_t*)at;
  s.scores = at + (size_t)kQueriesAtOnce * head_dim / 2;
  s.out = s.scores + (size_t)kQueriesAtOnce * kScoreStride;
  return s;
}

struct PairedPiece {
  const int32_t* keys;    // [blocks][head_dim / 2][16 tokens]
  const int32_t* values;  // [head_dim / 32][tokens / 2][32], each run as `interleave32` orders it; tokens up to a multiple of 32
  int tokens;
};

DW_INLINE PairedPiece paired_at(const int32_t* at, int head_dim, int tokens) {
  return {at, at + (size_t)round_up(tokens, kBlockTokens) / 2 * head_dim, tokens};
}

// ---- few vectors, straight from the cache -------------------------------------------------------------------------------------------

template <int R, int B>
DW_INLINE void pair_scores(const float* const* q, const uint16_t* const* keys, const uint16_t* const* next, int head_dim,
                           float* out) {
  vf s[B][R] = {};
  for (int d0 = 0; d0 < head_dim; d0 += kTileDims) {
    vf even[B][R] = {}, odd[B][R] = {};
    for (int d = d0; d < d0 + kTileDims; d += 2)
      for (int b = 0; b < B; b++) {
        prefetch(next[b] + d * kBlockTokens);
        prefetch(keys[b] + (head_dim + d) * kBlockTokens);  // the values
        vf k0 = load_bf16(keys[b] + d * kBlockTokens), k1 = load_bf16(keys[b] + (d + 1) * kBlockTokens);
        for (int r = 0; r < R; r++) {
          even[b][r] = fma(set1(q[r][d]), k0, even[b][r]);
          odd[b][r] = fma(set1(q[r][d + 1]), k1, odd[b][r]);
        }
      }
    for (int b = 0; b < B; b++)
      for (int r = 0; r < R; r++) s[b][r] += even[b][r] + odd[b][r];
  }
  for (int b = 0; b < B; b++)
    for (int r = 0; r < R; r++) store(out + r * kPieceTokens + b * kBlockTokens, s[b][r]);
}

// The keys that are asked for beside the values of block `b`.
DW_INLINE const uint8_t* keys_ahead(const Piece& piece, int b, size_t offset) {
  return piece.ahead && b < piece.ahead->count ? piece.ahead->blocks[b] + offset : nullptr;
}

// out[r] [32 dimensions from `d` on] = sum over tokens of p[r] v.
template <int R>
DW_INLINE void pair_values(const float* p, const Piece& piece, int tokens, int head_dim, int d, float* const* out) {
  constexpr int S = R <= kQueryTile / 2 ? 2 : 1;
  for (int run = 0; run < kTileDims; run += S * W) {
    vf sum[R][S] = {};
    for (int first = 0; first < tokens; first += kTileDims) {
      vf chain[2][R][S] = {};  // of even and of odd tokens
      for (int t0 = first; t0 < min_of(first + kTileDims, tokens); t0 += kBlockTokens) {
        const uint16_t* v = (const uint16_t*)piece.blocks[t0 / kBlockTokens] + (size_t)head_dim * kBlockTokens + d + run;
        const uint8_t* later = run ? nullptr : keys_ahead(piece, t0 / kBlockTokens, (size_t)d * kBlockTokens * sizeof(uint16_t));
        const int n = min_of(tokens - t0, kBlockTokens);
        auto add = [&](int t, int odd) {
          if (later) prefetch_later(later + t * 64);
          for (int i = 0; i < S; i++) {
            vf value = load_bf16(v + (size_t)t * head_dim + i * W);
            for (int r = 0; r < R; r++)
              chain[odd][r][i] = fma(set1(p[r * kPieceTokens + t0 + t]), value, chain[odd][r][i]);
          }
        };
        int t = 0;
        for (; t + 2 <= n; t += 2) add(t, 0), add(t + 1, 1);
        if (t < n) add(t, 0);
      }
      for (int r = 0; r < R; r++)
        for (int i = 0; i < S; i++) sum[r][i] += chain[0][r][i] + chain[1][r][i];
    }
    for (int r = 0; r < R; r++)
      for (int i = 0; i < S; i++) store(out[r] + d + run + i * W, sum[r][i]);
  }
}

// `attend_piece` with the sums of tiles; queries are rounded already.
template <int R>
static void attend_pairs(const float* const* q, const int* visible, const Piece& piece, int head_dim, int, float* scores,
                         float* const* out, Softmax* softmax) {
  constexpr int B = R <= kQueryTile / 4 ? 2 : 1;
  int most = 0, b = 0;
  for (int r = 0; r < R; r++) most = max_of(most, visible[r]);
  const int blocks = ceil_div(most, kBlockTokens);
  auto keys = (const uint16_t* const*)piece.blocks;
  for (; b + B <= blocks; b += B)
    pair_scores<R, B>(q, keys + b, keys + (b + 2 * B <= blocks ? b + B : b), head_dim, scores + b * kBlockTokens);
  for (; b < blocks; b++) pair_scores<R, 1>(q, keys + b, keys + b, head_dim, scores + b * kBlockTokens);
  for (int r = 0; r < R; r++) {
    float* s = scores + r * kPieceTokens;
    auto put = [&](int t, vf weights) { store(s + t, rounded_to_bf16(weights)); };
    if (visible[r]) softmax[r] = soften(s, visible[r], blocks * kBlockTokens, put);
    else softmax[r] = {-__builtin_inff(), 0.0f}, memset(s, 0, blocks * kBlockTokens * sizeof(float));
  }
  for (int d = 0; d < head_dim; d += kTileDims) pair_values<R>(scores, piece, most, head_dim, d, out);
}

struct AsTiles;  // pages of bf16 whose products are added up as tiles add them
template <>
struct Attend<AsTiles> {
  template <int R>
  static constexpr AttendFunction with = attend_pairs<R>;
};

// ---- many vectors, as tiles ---------------------------------------------------------------------------------------------------------

// The first `tokens` of a piece of pages. Tokens that do not exist, up to a multiple of 32, have values of 0.
static PairedPiece pair_piece(const Piece& piece, int head_dim, int tokens, int32_t* to) {
  alignas(64) static const uint16_t none[kTileDims] = {};
  const PairedPiece p = paired_at(to, head_dim, tokens);
  for (int b = 0; b * kBlockTokens < tokens; b++) {
    const uint16_t* keys = (const uint16_t*)piece.blocks[b];
    for (int d = 0; d < head_dim; d += 2, to += kBlockTokens) interleave16(keys + d * kBlockTokens, to);
  }
  for (int d = 0; d < head_dim; d += kTileDims)
    for (int t0 = 0; t0 < round_up(tokens, kTileDims); t0 += kBlockTokens) {
      const uint16_t* v = nullptr;
      if (t0 < tokens) v = (const uint16_t*)piece.blocks[t0 / kBlockTokens] + (size_t)head_dim * kBlockTokens + d;
      const int n = min_of(tokens - t0, kBlockTokens);
      for (int t = 0; t < kBlockTokens; t += 2, to += kTileDims)
        interleave32(t < n ? v + (size_t)t * head_dim : none, t + 1 < n ? v + (size_t)(t + 1) * head_dim : none, to);
    }
  return p;
}

// Scores of 32 vectors (or the first 16 alone) and all tokens of `blocks` blocks.
template <bool Both>
static void tile_scores_of_piece(const TileRows& s, const PairedPiece& piece, int head_dim, int blocks) {
  const size_t stride = (size_t)head_dim * 2, out = kScoreStride * sizeof(float);
  const uint8_t* queries = (const uint8_t*)s.queries;
  const size_t key_bytes = (size_t)head_dim / 2 * kTileBytes;  // of a block
  for (int b = 0; b < blocks; b += 2) {
    const uint8_t* keys = (const uint8_t*)piece.keys + b * key_bytes;
    const bool two = b + 1 < blocks;
    DW_TILE_ZERO(0);
    DW_TILE_ZERO(1);
    if (Both) {
      DW_TILE_ZERO(2);
      DW_TILE_ZERO(3);
    }
    for (int d = 0; d < head_dim; d += kTileDims) {
      DW_TILE_LOAD(4, queries + d * 2, stride);
      DW_TILE_LOAD(6, keys + d / 2 * kTileBytes, kTileBytes);
      DW_TILE_DOT_BF16(0, 4, 6);
      if (two) {
        DW_TILE_LOAD(7, keys + key_bytes + d / 2 * kTileBytes, kTileBytes);
        DW_TILE_DOT_BF16(1, 4, 7);
      }
      if (Both) {
        DW_TILE_LOAD(5, queries + kTile * stride + d * 2, stride);
        DW_TILE_DOT_BF16(2, 5, 6);
        if (two) DW_TILE_DOT_BF16(3, 5, 7);
      }
    }
    float* to = s.scores + b * kBlockTokens;
    DW_TILE_STORE(0, to, out);
    if (two) DW_TILE_STORE(1, to + kBlockTokens, out);
    if (Both) {
      DW_TILE_STORE(2, to + kTile * kScoreStride, out);
      if (two) DW_TILE_STORE(3, to + kTile * kScoreStride + kBlockTokens, out);
    }
  }
}

// out [32 vectors, or 16][head_dim] = weights times values of the first `tokens`.
template <bool Both>
static void tile_values_of_piece(const TileRows& s, const PairedPiece& piece, int head_dim, int tokens) {
  alignas(64) float sums[2][2][kTile * kTile];
  const size_t stride = kScoreStride * sizeof(float);
  const size_t run_words = (size_t)round_up(piece.tokens, kTileDims) / 2 * kTileDims;
  for (int d = 0; d < head_dim; d += kTileDims) {
    const int32_t* values = piece.values + d / kTileDims * run_words;
    DW_TILE_ZERO(0);
    DW_TILE_ZERO(1);
    if (Both) {
      DW_TILE_ZERO(2);
      DW_TILE_ZERO(3);
    }
    for (int t = 0; t < tokens; t += kTileDims, values += kTileDims / 2 * kTileDims) {
      const uint16_t* weights = (const uint16_t*)s.scores + t;
      DW_TILE_LOAD(4, weights, stride);
      DW_TILE_LOAD(6, values, kTileDims * 4);
      DW_TILE_DOT_BF16(0, 4, 6);
      DW_TILE_LOAD(7, values + kTile, kTileDims * 4);
      DW_TILE_DOT_BF16(1, 4, 7);
      if (Both) {
        DW_TILE_LOAD(5, weights + (size_t)kTile * kScoreStride * 2, stride);
        DW_TILE_DOT_BF16(2, 5, 6);
        DW_TILE_DOT_BF16(3, 5, 7);
      }
    }
    DW_TILE_STORE(0, sums[0][0], kTileBytes);
    DW_TILE_STORE(1, sums[0][1], kTileBytes);
    if (Both) {
      DW_TILE_STORE(2, sums[1][0], kTileBytes);
      DW_TILE_STORE(3, sums[1][1], kTileBytes);
    }
    for (int r = 0; r < (Both ? kQueriesAtOnce : kTile); r++) {
      const auto& half = sums[r / kTile];
      order_runs(half[0] + r % kTile * kTile, half[1] + r % kTile * kTile, s.out + (size_t)r * head_dim + d);
    }
  }
}

// Any number of vectors over a piece; `done(v, o, softmax)` receives those that see a token.
template <class Done>
static void attend_tiled(const float* const* q, const int* visible, int vectors, const PairedPiece& piece, int head_dim,
                         const TileRows& s, const Done& done) {
  configure_tiles(kTile);
  for (int first = 0; first < vectors; first += kQueriesAtOnce) {
    const int n = min_of(kQueriesAtOnce, vectors - first), rows = n > kTile ? kQueriesAtOnce : kTile;
    int most = 0;
    for (int r = 0; r < n; r++) most = max_of(most, visible[first + r]);
    if (most == 0) continue;
    for (int r = 0; r < n; r++)
      for (int d = 0; d < head_dim; d += W) narrow_bf16(s.queries + r * head_dim + d, load(q[first + r] + d));
    memset(s.queries + n * head_dim, 0, (size_t)(rows - n) * head_dim * 2);
    const int blocks = ceil_div(most, kBlockTokens), end = round_up(most, kTileDims);
    if (n > kTile) tile_scores_of_piece<true>(s, piece, head_dim, blocks);
    else tile_scores_of_piece<false>(s, piece, head_dim, blocks);
    Softmax softmax[kQueriesAtOnce];
    for (int r = 0; r < rows; r++) {
      float* scores = s.scores + r * kScoreStride;
      uint16_t* weights = (uint16_t*)scores;
      if (r < n && visible[first + r] > 0)
        softmax[r] = soften(scores, visible[first + r], end, [&](int t, vf e) { narrow_bf16(weights + t, e); });
      else memset(weights, 0, (size_t)end * 2);
    }
    if (n > kTile) tile_values_of_piece<true>(s, piece, head_dim, most);
    else tile_values_of_piece<false>(s, piece, head_dim, most);
    for (int r = 0; r < n; r++)
      if (visible[first + r] > 0) done(first + r, s.out + (size_t)r * head_dim, softmax[r]);
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
