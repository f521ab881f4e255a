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

#if defined(DW_TILES)
constexpr int kTileDims = 32;   // of bf16 in a row of a tile
constexpr int kPairWords = 32;  // dimensions of a run of interleaved pairs of tokens
static_assert(kWidenedFloats >= kPieceTokens / 2 * kPairWords);

// Scores of all tokens of the blocks that hold visible ones: g.scores [tokens][16].
static void tile_scores(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g) {
  const size_t stride = (size_t)d.all * 2;
  const int whole = d.all / kTileDims, blocks = ceil_div(most_visible(g), kBlockTokens);
  for (int b = 0; b < blocks; b++) {
    const uint8_t* block = piece.blocks[b];
    if (b + 1 < blocks) prefetch_bytes(piece.blocks[b + 1], (int)stride * kBlockTokens);
    for (int i = 0; i < g.count; i++) {
      if (g.visible[i] <= b * kBlockTokens) continue;
      const int32_t* q = g.queries[i].pairs;
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
      DW_TILE_STORE(0, g.scores + (size_t)i * kGroupScores + b * kBlockTokens * kLanes, kTileBytes);
    }
  }
}

// Weights [tokens][16] -> bf16 in place, [tokens / 32][16 lanes][32 tokens]; those behind `tokens` are 0.
static void turn_weights(float* weights, int tokens) {
  uint16_t* to = (uint16_t*)weights;
  for (int t0 = 0; t0 < round_up(tokens, kTileDims); t0 += kBlockTokens) {
    vf w[kBlockTokens];
    for (int t = 0; t < kBlockTokens; t++) w[t] = t0 + t < tokens ? load(weights + (t0 + t) * kLanes) : vf{};
    turn_block(w, to + t0 / kTileDims * kTileDims * kLanes + t0 % kTileDims);
  }
}

// 32 dimensions of the latents from `d0` on: [tokens / 2][32] pairs of tokens, up to a multiple of 32 tokens; those behind `tokens` are 0.
static void interleave_latents(const LatentPiece& piece, const LatentDims& d, int d0, int tokens, int32_t* to) {
  alignas(64) static const uint16_t none[kTileDims] = {};
  auto at = [&](int t) {
    if (t >= tokens) return none;
    return (const uint16_t*)piece.blocks[t / kBlockTokens] + (size_t)(t % kBlockTokens) * d.all + d0;
  };
  for (int t = 0; t < round_up(tokens, kTileDims); t += 2) interleave32(at(t), at(t + 1), to + t / 2 * kPairWords);
}

// records[g] [16][rank] = weights^T latents.
static void tile_values(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, float* const* records, int32_t* pairs) {
  const int most = most_visible(g);
  for (int d0 = 0; d0 < d.rank; d0 += kPairWords) {
    interleave_latents(piece, d, d0, most, pairs);
    for (int i = 0; i < g.count; i++) {
      if (g.visible[i] == 0) continue;
      const uint8_t* weights = (const uint8_t*)(g.scores + (size_t)i * kGroupScores);
      DW_TILE_ZERO(0);
      DW_TILE_ZERO(1);
      for (int t = 0; t < g.visible[i]; t += kTileDims) {
        const int32_t* values = pairs + t / 2 * kPairWords;
        DW_TILE_LOAD(2, weights + (size_t)t * kLanes * 2, kTileBytes);
        DW_TILE_LOAD(3, values, kPairWords * 4);
        DW_TILE_LOAD(4, values + kLanes, kPairWords * 4);
        DW_TILE_DOT_BF16(0, 2, 3);
        DW_TILE_DOT_BF16(1, 2, 4);
      }
      float* out = records[i] + 2 * kLanes + d0;
      DW_TILE_STORE(0, out, (size_t)d.rank * 4);
      DW_TILE_STORE(1, out + kLanes, (size_t)d.rank * 4);
    }
  }
}

static void attend_tiles(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, float* const* records, float* widened) {
  configure_tiles(kLatentTiles);
  tile_scores(piece, d, g);
  for (int i = 0; i < g.count; i++) {
    if (g.visible[i] == 0) {
      memset(records[i], 0, 2 * kLanes * sizeof(float));
      continue;
    }
    float* weights = g.scores + (size_t)i * kGroupScores;
    softmax_lanes(weights, g.visible[i], records[i]);
    turn_weights(weights, g.visible[i]);
  }
  tile_values(piece, d, g, records, (int32_t*)widened);
}
#endif

// Attend lane groups to a piece. A group with nothing visible leaves sums of 0. `lanes[g]` are the heads of group g.
static void attend_latents(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                           float* const* records, float* widened) {
#if defined(DW_TILES)
  if (latent_tiles(d)) return attend_tiles(piece, d, g, records, widened);
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
