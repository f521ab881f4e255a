// Attention of lane groups to a piece of latents: as tiles of bf16 on AMX, else as mla.h has it.
//
// Scores: 16 tokens as they lie in the cache, times 16 heads, 32 dimensions an instruction; nothing is widened. The weighted sum takes
// 32 tokens an instruction: weights are turned to [head][token], and two tokens of the latents interleaved, which is one pass over them
// for all groups. Queries and weights are rounded to bf16, as the latents are. A score is one chain over the dimensions in pairs and
// an output one over the tokens of a piece, in the same order in any company.
//
// NOTE cost. 256 tokens of 128 numbers, 96 of them latent, and one group: some 40,000 cycles as vectors of floats (9 heads fill 9 of 16
// lanes, every latent is widened twice), a quarter of that as tiles, of which the softmax takes 4,000.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/mla.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"
#include "kernels/tiles.h"

namespace deepwell {
namespace DW_ISA {

// What this thread will attend to next, asked for in even steps meanwhile: the scores alone read memory, and would wait for it.
struct LatentsAhead {
  LatentPiece piece;
  int blocks;       // 0: nothing is known
  int bytes, step;  // of a block, and of a step
  int block, at;

  void spread(int steps) { step = round_up(ceil_div(blocks * bytes, steps), 64); }
  void ask() {
    for (int end = at + step; at < end && block < blocks; at += 64) {
      if (at >= bytes) end -= bytes, at = 0, block++;
      if (block < blocks) __builtin_prefetch(piece.blocks[block] + at, 0, 2);
    }
  }
};

#if defined(DW_TILES)
constexpr int kPairWords = 32;  // dimensions of a run of interleaved pairs of tokens
static_assert(kWidenedFloats >= kPieceTokens / 2 * kPairWords);

// 16 tokens of a block times the queries of a group -> s [16][16].
DW_INLINE void tile_block_scores(const uint8_t* block, const int32_t* q, const LatentDims& d, float* s) {
  const size_t stride = (size_t)d.all * 2;
  const int whole = d.all / kTileDims;
  DW_TILE_ZERO(0);
  for (int k = 0; k < whole; k++) {
    DW_TILE_LOAD(2, block + k * kTileBytes, stride);
    DW_TILE_LOAD(3, q + k * kTileDims / 2 * kLanes, kTileBytes);
    DW_TILE_DOT_BF16(0, 2, 3);
  }
  if (whole * kTileDims < d.all) {
    DW_TILE_LOAD(5, block + whole * kTileBytes, stride);
    DW_TILE_LOAD(6, q + whole * kTileDims / 2 * kLanes, kTileBytes);
    DW_TILE_DOT_BF16(0, 5, 6);
  }
  DW_TILE_STORE(0, s, kTileBytes);
}

// Two blocks at once, which share the loads of the queries.
DW_INLINE void tile_pair_scores(const uint8_t* block, const uint8_t* next, const int32_t* q, const LatentDims& d, float* s) {
  const size_t stride = (size_t)d.all * 2;
  const int whole = d.all / kTileDims;
  DW_TILE_ZERO(0);
  DW_TILE_ZERO(1);
  for (int k = 0; k < whole; k++) {
    DW_TILE_LOAD(3, q + k * kTileDims / 2 * kLanes, kTileBytes);
    DW_TILE_LOAD(2, block + k * kTileBytes, stride);
    DW_TILE_DOT_BF16(0, 2, 3);
    DW_TILE_LOAD(4, next + k * kTileBytes, stride);
    DW_TILE_DOT_BF16(1, 4, 3);
  }
  if (whole * kTileDims < d.all) {
    DW_TILE_LOAD(6, q + whole * kTileDims / 2 * kLanes, kTileBytes);
    DW_TILE_LOAD(5, block + whole * kTileBytes, stride);
    DW_TILE_DOT_BF16(0, 5, 6);
    DW_TILE_LOAD(5, next + whole * kTileBytes, stride);
    DW_TILE_DOT_BF16(1, 5, 6);
  }
  DW_TILE_STORE(0, s, kTileBytes);
  DW_TILE_STORE(1, s + kTile * kLanes, kTileBytes);
}

// Scores of all tokens of the blocks that hold visible ones: g.scores [tokens][16].
static void tile_scores(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g) {
  const int blocks = ceil_div(most_visible(g), kBlockTokens), bytes = d.all * 2 * kBlockTokens;
  for (int b = 0; b < blocks; b += 2) {
    for (int next = b + 2; next < min_of(b + 4, blocks); next++)
      for (int i = 0; i < bytes; i += 64) prefetch(piece.blocks[next] + i);
    for (int i = 0; i < g.count; i++) {
      float* s = g.scores + (size_t)i * kGroupScores + b * kBlockTokens * kLanes;
      const int seen = g.visible[i] - b * kBlockTokens;
      if (seen > kBlockTokens) tile_pair_scores(piece.blocks[b], piece.blocks[b + 1], g.queries[i].pairs, d, s);
      else if (seen > 0) tile_block_scores(piece.blocks[b], g.queries[i].pairs, d, s);
    }
  }
}

// scores [tokens][16] -> weights as bf16 in place, [tokens / 32][16 lanes][32 tokens], those behind `tokens` 0; max and sum into the
// record. Two sums, of even and of odd tokens.
static void tile_softmax(float* scores, int tokens, float* record, LatentsAhead* ahead) {
  vf top[4];
  for (int i = 0; i < 4; i++) top[i] = load(scores + min_of(i, tokens - 1) * kLanes);
  for (int t = 4; t + 4 <= tokens; t += 4)
    for (int i = 0; i < 4; i++) top[i] = vmax(top[i], load(scores + (t + i) * kLanes));
  for (int t = max_of(4, tokens / 4 * 4); t < tokens; t++) top[0] = vmax(top[0], load(scores + t * kLanes));
  const vf most = vmax(vmax(top[0], top[1]), vmax(top[2], top[3])), shift = -most * kLog2e;
  vf sum[2] = {};
  uint16_t* to = (uint16_t*)scores;
  for (int t0 = 0; t0 < round_up(tokens, kTileDims); t0 += kBlockTokens) {
    ahead->ask();
    vf w[kBlockTokens];
    if (t0 + kBlockTokens <= tokens) {
#pragma GCC unroll 16
      for (int t = 0; t < kBlockTokens; t++) w[t] = power_of_two(fma(load(scores + (t0 + t) * kLanes), set1(kLog2e), shift));
    } else {
      for (int t = 0; t < kBlockTokens; t++)
        w[t] = t0 + t < tokens ? power_of_two(fma(load(scores + (t0 + t) * kLanes), set1(kLog2e), shift)) : vf{};
    }
    for (int t = 0; t < kBlockTokens; t++) sum[t % 2] += w[t];
    turn_block(w, to + t0 / kTileDims * kTileDims * kLanes + t0 % kTileDims);
  }
  store(record, most);
  store(record + kLanes, sum[0] + sum[1]);
}

// 32 dimensions of the latents from `d0` on: [tokens / 2][32] pairs of tokens, up to a multiple of 32 tokens; those behind `tokens` are 0.
static void interleave_latents(const LatentPiece& piece, const LatentDims& d, int d0, int tokens, int32_t* to,
                               LatentsAhead* ahead) {
  alignas(64) static const uint16_t none[kTileDims] = {};
  const int end = round_up(tokens, kTileDims);
  for (int t0 = 0; t0 < end; t0 += kBlockTokens, to += kBlockTokens / 2 * kPairWords) {
    ahead->ask();
    if (t0 >= tokens) {
      memset(to, 0, kBlockTokens / 2 * kPairWords * sizeof(int32_t));
      continue;
    }
    const uint16_t* at = (const uint16_t*)piece.blocks[t0 / kBlockTokens] + d0;
    const int n = min_of(tokens - t0, kBlockTokens);
    for (int t = 0; t < kBlockTokens; t += 2)
      interleave32(t < n ? at + t * d.all : none, t + 1 < n ? at + (t + 1) * d.all : none, to + t / 2 * kPairWords);
  }
}

// records[g] [lanes][rank] = weights^T latents.
static void tile_values(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes, float* const* records,
                        int32_t* pairs, LatentsAhead* ahead) {
  const int most = most_visible(g);
  alignas(64) float sums[2][kTile * kTile];
  for (int d0 = 0; d0 < d.rank; d0 += kPairWords) {
    interleave_latents(piece, d, d0, most, pairs, ahead);
    for (int i = 0; i < g.count; i++) {
      if (g.visible[i] == 0) continue;
      const uint8_t* weights = (const uint8_t*)(g.scores + (size_t)i * kGroupScores);
      DW_TILE_ZERO(0);
      DW_TILE_ZERO(1);
      for (int t = 0; t < g.visible[i]; t += kTileDims) {
        const int32_t* values = pairs + t / 2 * kPairWords;
        DW_TILE_LOAD(2, weights + (size_t)t * kLanes * 2, kTileBytes);
        DW_TILE_LOAD(3, values, kPairWords * 4);
        DW_TILE_DOT_BF16(0, 2, 3);
        DW_TILE_LOAD(4, values + kLanes, kPairWords * 4);
        DW_TILE_DOT_BF16(1, 2, 4);
      }
      DW_TILE_STORE(0, sums[0], kTileBytes);
      DW_TILE_STORE(1, sums[1], kTileBytes);
      float* out = records[i] + 2 * kLanes + d0;
      for (int lane = 0; lane < lanes[i]; lane++) order_runs(sums[0] + lane * kTile, sums[1] + lane * kTile, out + (size_t)lane * d.rank);
    }
  }
}

static void attend_tiles(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                         float* const* records, float* widened, LatentsAhead* ahead) {
  configure_tiles(kLatentTiles);
  ahead->spread(ceil_div(most_visible(g), kBlockTokens) * (g.count + d.rank / kPairWords));
  tile_scores(piece, d, g);
  for (int i = 0; i < g.count; i++) {
    if (g.visible[i] == 0) {
      memset(records[i], 0, 2 * kLanes * sizeof(float));
      continue;
    }
    tile_softmax(g.scores + (size_t)i * kGroupScores, g.visible[i], records[i], ahead);
  }
  tile_values(piece, d, g, lanes, records, (int32_t*)widened, ahead);
}
#endif

// Attend lane groups to a piece. A group with nothing visible leaves sums of 0. `lanes[g]` are the heads of group g.
static void attend_latents(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                           float* const* records, float* widened, [[maybe_unused]] LatentsAhead* ahead) {
#if defined(DW_TILES)
  if (latent_tiles(d)) return attend_tiles(piece, d, g, lanes, records, widened, ahead);
#endif
  auto latent = [](const LaneQueries& q) { return (const float*)q.latent; };
  auto pe = [](const LaneQueries& q) { return (const float*)q.pe; };
  if (d.type == kKvInt8) {
    integer_scores(piece, d, g, widened);
    float_scores<uint16_t>(piece, d.rope_bytes, d.rope_stride, d.rope, g, widened, false, pe);
  } else if (d.type == kKvBf16) {
    float_scores<uint16_t>(piece, 0, d.all, d.all, g, widened, true, latent);
  } else {
    float_scores<float>(piece, 0, d.all, d.all, g, widened, true, latent);
  }
  for (int i = 0; i < g.count; i++) {
    if (g.visible[i] == 0) {
      memset(records[i], 0, 2 * kLanes * sizeof(float));
      continue;
    }
    float* weights = g.scores + (size_t)i * kGroupScores;
    softmax_lanes(weights, g.visible[i], records[i]);
    // The last row of the buffer is free once the weights are pairs.
    alignas(64) float unit[kLanes];
    if (d.type == kKvInt8) {
      round_weights(weights, piece, d, g.visible[i], unit);
      memcpy(weights + kGroupScores - kLanes, unit, sizeof unit);
    }
  }
  if (d.type == kKvInt8) integer_values(piece, d, g, lanes, records, widened);
  else if (d.type == kKvBf16) float_values<uint16_t>(piece, d, g, lanes, records, widened);
  else float_values<float>(piece, d, g, lanes, records, widened);
}

}  // namespace DW_ISA
}  // namespace deepwell
