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

// ---- int8 latents -------------------------------------------------------------------------------------------------------------------

// Tokens of a block as rows: [16][rank] bytes, 64 dimensions as `split64` orders them.
static void split_block(const uint8_t* block, int rank, uint8_t* to) {
  for (int t = 0; t < kBlockTokens; t += 2, to += 2 * rank) {
    const uint8_t* from = block + (size_t)t * rank;
    int i = 0;
    for (; i + 64 <= rank; i += 64) split64(from + 2 * i, to + i, to + rank + i);
    if (i < rank) split32(from + 2 * i, to + i, to + rank + i);
  }
}

// Scores of 16 tokens: upper and lower bytes of the queries apart, which add up to the integers of `integer_scores`; then both scales, and
// the part of k_pe in bf16.
static void byte_tile_scores(const uint8_t* block, const uint8_t* rows, const LaneQueries& q, const LatentDims& d, float* s) {
  alignas(64) int32_t upper[kTile * kTile], lower[kTile * kTile];
  alignas(64) float rope[kTile * kTile];
  const uint8_t *high = (const uint8_t*)q.pairs, *low = high + (size_t)d.rank * kLanes;
  const int whole = d.rank / kTileBytes, pe = d.rope / kTileDims;
  DW_TILE_ZERO(0);
  DW_TILE_ZERO(1);
  DW_TILE_ZERO(2);
  for (int k = 0; k < whole; k++) {
    DW_TILE_LOAD(3, rows + k * kTileBytes, d.rank);
    DW_TILE_LOAD(4, high + k * kTileBytes * kLanes, kTileBytes);
    DW_TILE_DOT8(0, 3, 4);
    DW_TILE_LOAD(7, low + k * kTileBytes * kLanes, kTileBytes);
    DW_TILE_DOT8_SU(1, 3, 7);
  }
  if (whole * kTileBytes < d.rank) {
    DW_TILE_LOAD(5, rows + whole * kTileBytes, d.rank);
    DW_TILE_LOAD(6, high + whole * kTileBytes * kLanes, kTileBytes);
    DW_TILE_DOT8(0, 5, 6);
    DW_TILE_LOAD(6, low + whole * kTileBytes * kLanes, kTileBytes);
    DW_TILE_DOT8_SU(1, 5, 6);
  }
  const uint8_t *keys = block + d.rope_bytes, *pairs = (const uint8_t*)q.pe;
  for (int k = 0; k < pe; k++) {
    DW_TILE_LOAD(3, keys + k * kTileBytes, d.rope * 2);
    DW_TILE_LOAD(4, pairs + k * kTileBytes * kLanes, kTileBytes);
    DW_TILE_DOT_BF16(2, 3, 4);
  }
  if (pe * kTileDims < d.rope) {
    DW_TILE_LOAD(5, keys + pe * kTileBytes, d.rope * 2);
    DW_TILE_LOAD(6, pairs + pe * kTileBytes * kLanes, kTileBytes);
    DW_TILE_DOT_BF16(2, 5, 6);
  }
  DW_TILE_STORE(0, upper, kTileBytes);
  DW_TILE_STORE(1, lower, kTileBytes);
  DW_TILE_STORE(2, rope, kTileBytes);
  const float* scales = (const float*)(block + d.scale_bytes);
  const vf scale = load(q.scale);
  for (int t = 0; t < kTile; t++) {
    vi sum = (load_bytes(upper + t * kTile) << 8) + load_bytes(lower + t * kTile);
    store(s + t * kLanes, to_float(sum) * (scale * scales[t]) + load(rope + t * kTile));
  }
}

// Weights [tokens][16] -> their integers, as `round_weights` has them, in place as bytes: for 64 tokens the upper ones, [16 lanes][64],
// then the lower ones. Those behind `tokens` are 0.
static void split_weights(float* weights, const LatentPiece& piece, const LatentDims& d, int tokens, float* unit) {
  vf most = vf{};
  for (int t = 0; t < tokens; t++) {
    float scale = ((const float*)(piece.blocks[t / kBlockTokens] + d.scale_bytes))[t % kBlockTokens];
    vf w = load(weights + t * kLanes) * scale;
    most = vmax(most, w);
    store(weights + t * kLanes, w);
  }
  const vf inverse = select(most > kSmallestPeak, (float)kIntegerPeak / most, vf{});
  store(unit, most / (float)kIntegerPeak);
  alignas(64) int32_t upper[kTile * kTile], lower[kTile * kTile];
  for (int t0 = 0; t0 < tokens; t0 += kTileBytes) {
    for (int t = 0; t < kTileBytes; t += 4) {
      vi high = vi{}, low = vi{};
      for (int i = 0; i < 4 && t0 + t + i < tokens; i++) {
        vi w = round_to_int(load(weights + (t0 + t + i) * kLanes) * inverse);
        high |= (w >> 8) << (8 * i);
        low |= (w & 255) << (8 * i);
      }
      *(viu*)(upper + t / 4 * kTile) = high;
      *(viu*)(lower + t / 4 * kTile) = low;
    }
    int32_t* to = (int32_t*)weights + t0 / kTileBytes * 2 * kTile * kTile;
    turn_words((const uint16_t*)upper, to);
    turn_words((const uint16_t*)lower, to + kTile * kTile);
  }
}

// 32 dimensions from `d0` on: [tokens / 4][32] words of four tokens, up to a multiple of 64 tokens; those of blocks that do not exist are 0.
static void interleave_bytes(const LatentPiece& piece, const LatentDims& d, int d0, int tokens, int32_t* to, LatentsAhead* ahead) {
  for (int t0 = 0; t0 < round_up(tokens, kTileBytes); t0 += kBlockTokens) {
    ahead->ask();
    if (t0 >= tokens) {
      memset(to, 0, kBlockTokens / 4 * kPairWords * sizeof(int32_t));
      to += kBlockTokens / 4 * kPairWords;
      continue;
    }
    const uint16_t* pairs = (const uint16_t*)piece.blocks[t0 / kBlockTokens] + d0;
    for (int p = 0; p < kBlockTokens / 2; p += 2, to += kPairWords)
      interleave32(pairs + (size_t)p * d.rank, pairs + (size_t)(p + 1) * d.rank, to);
  }
}

// records[g] [lanes][rank] = weights^T latents, the integers of `integer_values`.
static void byte_tile_values(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                             float* const* records, const float (*units)[kLanes], int32_t* words, LatentsAhead* ahead) {
  const int most = most_visible(g);
  alignas(64) int32_t sums[4][kTile * kTile];
  for (int d0 = 0; d0 < d.rank; d0 += kPairWords) {
    interleave_bytes(piece, d, d0, most, words, ahead);
    for (int i = 0; i < g.count; i++) {
      if (g.visible[i] == 0) continue;
      const uint8_t* weights = (const uint8_t*)(g.scores + (size_t)i * kGroupScores);
      DW_TILE_ZERO(0);
      DW_TILE_ZERO(1);
      DW_TILE_ZERO(2);
      DW_TILE_ZERO(3);
      for (int t = 0; t < g.visible[i]; t += kTileBytes) {
        const uint8_t *high = weights + (size_t)t * 2 * kTile, *low = high + kTile * kTileBytes;
        const int32_t* values = words + t / 4 * kPairWords;
        DW_TILE_LOAD(4, high, kTileBytes);
        DW_TILE_LOAD(7, values, kPairWords * 4);
        DW_TILE_DOT8(0, 4, 7);
        DW_TILE_LOAD(4, low, kTileBytes);
        DW_TILE_DOT8_US(2, 4, 7);
        DW_TILE_LOAD(7, values + kLanes, kPairWords * 4);
        DW_TILE_DOT8_US(3, 4, 7);
        DW_TILE_LOAD(4, high, kTileBytes);
        DW_TILE_DOT8(1, 4, 7);
      }
      DW_TILE_STORE(0, sums[0], kTileBytes);
      DW_TILE_STORE(1, sums[1], kTileBytes);
      DW_TILE_STORE(2, sums[2], kTileBytes);
      DW_TILE_STORE(3, sums[3], kTileBytes);
      float* out = records[i] + 2 * kLanes + d0;
      for (int lane = 0; lane < lanes[i]; lane++) {
        alignas(64) float runs[2][kTile];
        for (int c = 0; c < 2; c++) {
          const int at = lane * kTile;
          store(runs[c], to_float((load_bytes(sums[c] + at) << 8) + load_bytes(sums[2 + c] + at)) * units[i][lane]);
        }
        order_runs(runs[0], runs[1], out + (size_t)lane * d.rank);
      }
    }
  }
}

static void attend_byte_tiles(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                              float* const* records, float* widened, LatentsAhead* ahead) {
  configure_tiles(kLatentTiles);
  const int most = most_visible(g), blocks = ceil_div(most, kBlockTokens);
  ahead->spread(round_up(most, kTileBytes) / kBlockTokens * (d.rank / kPairWords));
  for (int b = 0; b < blocks; b++) {
    for (int i = 0; b + 1 < blocks && i < (int)d.index_bytes; i += 64) prefetch(piece.blocks[b + 1] + i);
    split_block(piece.blocks[b], d.rank, (uint8_t*)widened);
    for (int i = 0; i < g.count; i++)
      if (g.visible[i] > b * kBlockTokens)
        byte_tile_scores(piece.blocks[b], (const uint8_t*)widened, g.queries[i], d,
                         g.scores + (size_t)i * kGroupScores + b * kBlockTokens * kLanes);
  }
  alignas(64) float units[kRunUnits][kLanes];
  for (int i = 0; i < g.count; i++) {
    if (g.visible[i] == 0) {
      memset(records[i], 0, 2 * kLanes * sizeof(float));
      continue;
    }
    float* weights = g.scores + (size_t)i * kGroupScores;
    softmax_lanes(weights, g.visible[i], records[i]);
    split_weights(weights, piece, d, g.visible[i], units[i]);
  }
  byte_tile_values(piece, d, g, lanes, records, units, (int32_t*)widened, ahead);
}
#endif

// Attend lane groups to a piece. A group with nothing visible leaves sums of 0. `lanes[g]` are the heads of group g.
static void attend_latents(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                           float* const* records, float* widened, [[maybe_unused]] LatentsAhead* ahead) {
#if defined(DW_TILES)
  if (latent_tiles(d)) return attend_tiles(piece, d, g, lanes, records, widened, ahead);
  if (integer_tiles(d)) return attend_byte_tiles(piece, d, g, lanes, records, widened, ahead);
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
