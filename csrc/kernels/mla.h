// Attention over latents: one vector a token serves the keys and values of all heads (arXiv:2405.04434, section 2.1).
//
// NOTE layout. A cache block holds 16 tokens of a layer, `rank` padded to 32 dimensions and `rope` to 16:
//   fp32, bf16  [16 tokens][rank + rope]
//   int8        [8 token pairs][rank][2] int8, [16][rope] bf16, [16] float32 scales
// and behind it the keys of an indexer, [16][index_dim] fp32 or bf16. bf16 runs of 16 are ordered as in attention.h.
//
// NOTE cost. A token costs 16 heads x 1088 products in V2-Lite and 1152 bytes, so arithmetic decides, not memory. Lanes run over 16 query
// heads in the scores (a broadcast element of a latent meets 16 queries) and over dimensions in the weighted sum (a broadcast
// weight meets 16 dimensions): no reduction across lanes, no transposed latents, and all heads share one widened copy of the
// latents in the first-level cache. int8 latents are multiplied as integers: `vpmaddwd` does twice the products of a float
// instruction. Queries and softmax weights are then rounded to 15 bits, so that 512 products fit an int32.
//
// A score is one chain over the dimensions and an output one chain over the tokens of a piece of 256, pieces are merged in order:
// a row has the same bits in any company and with any number of threads.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "kernels/tiles.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kLanes = 16;                             // query heads computed together: a lane group
constexpr int kLaneVectors = kLanes / W;
constexpr int kLaneStep = kLaneVectors < 2 ? 1 : 2;    // vectors of lanes in a tile
constexpr int kTileTokens = kQueryTile;                // tokens of a score tile
constexpr int kScoreTokens = 48;                       // tokens that are widened together for scores: 18 kB with their dimensions
constexpr int kScoreDims = 96;
constexpr int kValueTokens = 128;                      // and for the weighted sum: 16 kB
constexpr int kValueDims = 32;
constexpr int kValueVectors = 2;
constexpr int kIntegerPeak = 32767;                    // of queries and weights beside int8 latents
constexpr int kRunUnits = 8;                           // lane groups that share a widened piece, at most
constexpr int kWidenedFloats = kScoreTokens * kScoreDims;
static_assert(kScoreTokens % kTileTokens == 0 && kWidenedFloats >= kValueTokens * kValueDims);

// Padded dimensions of the cached vectors, and where they lie in a block.
struct LatentDims {
  int rank, rope, index;
  int all;                            // rank + rope
  KvType type;
  size_t rope_bytes, scale_bytes, index_bytes, block_bytes;  // offsets in a block, and its size
  int rope_stride;                    // elements from a token's rope part to the next
};

DW_INLINE LatentDims latent_dims(const KVCache& c) {
  LatentDims d;
  d.rank = round_up(c.latent_rank, kPanel);
  d.rope = round_up(c.latent_rope, kBlockTokens);
  d.index = round_up(c.index_dim, kBlockTokens);
  d.all = d.rank + d.rope;
  d.type = c.type;
  size_t element = c.type == kKvFp32 ? 4 : 2;
  if (c.type == kKvInt8) {
    d.rope_bytes = (size_t)kBlockTokens * d.rank;
    d.rope_stride = d.rope;
    d.scale_bytes = d.rope_bytes + (size_t)kBlockTokens * d.rope * 2;
    d.index_bytes = d.scale_bytes + kBlockTokens * sizeof(float);
  } else {
    d.rope_bytes = d.rank * element;
    d.rope_stride = d.all;
    d.scale_bytes = 0;
    d.index_bytes = (size_t)kBlockTokens * d.all * element;
  }
  d.block_bytes = d.index_bytes + (size_t)kBlockTokens * d.index * element;
  return d;
}

static size_t latent_block_bytes(const KVCache& c) { return latent_dims(c).block_bytes; }

DW_INLINE const uint8_t* latent_block(const KVCache& c, int layer, int block) {
  return c.data + layer * c.layer_bytes + block * c.block_bytes;
}

// Where the blocks of up to 256 tokens lie.
struct LatentPiece {
  const uint8_t* blocks[kPieceBlocks];
};

static LatentPiece find_latents(const KVCache& c, int layer, const int32_t* table, int piece, int tokens) {
  LatentPiece p;
  for (int b = 0; b * kBlockTokens < tokens; b++) p.blocks[b] = latent_block(c, layer, table[piece * kPieceBlocks + b]);
  return p;
}

DW_INLINE void store_run(float* to, const float* x) { memcpy(to, x, kBlockTokens * sizeof(float)); }
DW_INLINE void store_run(uint16_t* to, const float* x) {
  for (int i = 0; i < kBlockTokens; i++) to[run_slot(i)] = to_bf16(x[i]);
}

template <class T>
static void store_runs(T* to, const float* x, int n) {
  for (int i = 0; i < n; i += kBlockTokens) store_run(to + i, x + i);
}

// One token's latent [rank] and rotated k_pe [rope], both padded with zeros, into a slot of a block.
static void write_latent(const LatentDims& d, uint8_t* block, int slot, const float* latent, const float* pe, int8_t* scratch) {
  if (d.type == kKvInt8) {
    ((float*)(block + d.scale_bytes))[slot] = quantize_head(latent, d.rank, scratch);
    int8_t* to = (int8_t*)block + (size_t)(slot / 2) * d.rank * 2 + slot % 2;
    for (int i = 0; i < d.rank; i++) to[2 * i] = scratch[i];
    store_runs((uint16_t*)(block + d.rope_bytes) + (size_t)slot * d.rope, pe, d.rope);
  } else if (d.type == kKvBf16) {
    uint16_t* to = (uint16_t*)block + (size_t)slot * d.all;
    store_runs(to, latent, d.rank);
    store_runs(to + d.rank, pe, d.rope);
  } else {
    float* to = (float*)block + (size_t)slot * d.all;
    store_runs(to, latent, d.rank);
    store_runs(to + d.rank, pe, d.rope);
  }
}

template <class T>
DW_INLINE void load_runs(const T* from, int n, float* to) {
  vf run[kTokenVectors];
  for (int i = 0; i < n; i += kBlockTokens) {
    load_run(from + i, run);
    for (int c = 0; c < kTokenVectors; c++) store(to + i + c * W, run[c]);
  }
}

// A token's vectors as floats: [rank] and [rope].
static void read_latent(const LatentDims& d, const uint8_t* block, int slot, float* latent, float* pe) {
  if (d.type == kKvInt8) {
    float scale = ((const float*)(block + d.scale_bytes))[slot];
    const int8_t* from = (const int8_t*)block + (size_t)(slot / 2) * d.rank * 2 + slot % 2;
    for (int i = 0; i < d.rank; i++) latent[i] = (float)from[2 * i] * scale;
    load_runs((const uint16_t*)(block + d.rope_bytes) + (size_t)slot * d.rope, d.rope, pe);
  } else if (d.type == kKvBf16) {
    load_runs((const uint16_t*)block + (size_t)slot * d.all, d.rank, latent);
    load_runs((const uint16_t*)block + (size_t)slot * d.all + d.rank, d.rope, pe);
  } else {
    load_runs((const float*)block + (size_t)slot * d.all, d.rank, latent);
    load_runs((const float*)block + (size_t)slot * d.all + d.rank, d.rope, pe);
  }
}

// ---- queries --------------------------------------------------------------------------------------------------

// A lane group of queries, [dimension][16 heads]. Beside int8 latents the latent part is [pair of dimensions][16] pairs of int16
// with a scale a head; for tiles all of it is [pair of dimensions][16] pairs of bf16, or, beside int8 latents, the upper and then the
// lower bytes of the integers, [4 dimensions][16][4], in the order of `split64`.
struct LaneQueries {
  float* latent;
  int32_t* pairs;
  float* pe;     // [rope][16]
  float* scale;  // [16]
};

DW_INLINE size_t lane_queries_floats(const LatentDims& d) { return (size_t)(d.all + 1) * kLanes; }

DW_INLINE LaneQueries lane_queries_at(float* memory, const LatentDims& d) {
  return {memory, (int32_t*)memory, memory + (size_t)d.rank * kLanes, memory + (size_t)d.all * kLanes};
}

// The largest integer a query is rounded to, so that `rank` products with -127..127 stay below 2^31.
DW_INLINE int query_peak(int rank) {
  int most = INT32_MAX / (127 * rank);
  return min_of(most, kIntegerPeak);
}

// Whether latents are multiplied as tiles of bf16 (mla_tiles.h).
DW_INLINE bool latent_tiles(const LatentDims& d) {
#if defined(DW_TILES)
  return d.type == kKvBf16 && tile_state.on;
#else
  (void)d;
  return false;
#endif
}

// Whether int8 latents are multiplied as tiles of bytes.
DW_INLINE bool integer_tiles(const LatentDims& d) {
#if defined(DW_TILES)
  return d.type == kKvInt8 && tile_state.on && d.rank * kBlockTokens <= kWidenedFloats * (int)sizeof(float);
#else
  (void)d;
  return false;
#endif
}

// Where `split64` puts dimension `i`, the first of 8.
DW_INLINE int split_slot(int i, int rank) {
  if (i / 64 * 64 + 64 > rank) return i;
  return i / 64 * 64 + i % 32 / 8 * 16 + i % 64 / 32 * 8;
}

// 32 of a head's integers from dimension `at` on.
DW_INLINE void set_bytes(const vi* x, int at, int rank, int lane, uint8_t* upper) {
  alignas(64) uint8_t high[32], low[32];
  vi shifted[32 / W];
  for (int v = 0; v < 32 / W; v++) shifted[v] = x[v] >> 8;
  store_activations4(high, shifted);
  store_activations4(low, x);
  uint8_t* lower = upper + (size_t)rank * kLanes;
  for (int i = 0; i < 32; i += 4) {
    const size_t to = (size_t)(split_slot((at + i) / 8 * 8, rank) + i % 8) * kLanes + lane * 4;
    memcpy(upper + to, high + i, 4);
    memcpy(lower + to, low + i, 4);
  }
}

DW_INLINE void set_bf16_pairs(const float* x, int dims, int dims_given, int lane, int32_t* pairs) {
  for (int i = 0; i < dims; i += 2) {
    uint32_t low = i < dims_given ? to_bf16(x[i]) : 0, high = i + 1 < dims_given ? to_bf16(x[i + 1]) : 0;
    pairs[i / 2 * kLanes + lane] = (int32_t)(low | high << 16);
  }
}

// Lane `lane` of a group: latent [rank] and pe [rope_dims] of one head.
static void set_lane(const LaneQueries& q, const LatentDims& d, int lane, const float* latent, const float* pe, int rope_dims) {
  if (latent_tiles(d)) {
    set_bf16_pairs(latent, d.rank, d.rank, lane, q.pairs);
    set_bf16_pairs(pe, d.rope, rope_dims, lane, q.pairs + d.rank / 2 * kLanes);
    return;
  }
  if (integer_tiles(d)) set_bf16_pairs(pe, d.rope, rope_dims, lane, (int32_t*)q.pe);
  else
    for (int i = 0; i < d.rope; i++) q.pe[i * kLanes + lane] = i < rope_dims ? pe[i] : 0.0f;
  if (d.type != kKvInt8) {
    for (int i = 0; i < d.rank; i++) q.latent[i * kLanes + lane] = latent[i];
    return;
  }
  vf peak = vf{};
  for (int i = 0; i < d.rank; i += W) peak = vmax(peak, vmax(load(latent + i), -load(latent + i)));
  float amax = reduce_max(peak), most = (float)query_peak(d.rank);
  float inverse = amax > kSmallestPeak ? most / amax : 0.0f;
  q.scale[lane] = amax / most;
  if (integer_tiles(d)) {
    for (int i = 0; i < d.rank; i += 32) {
      vi x[32 / W];
      for (int v = 0; v < 32 / W; v++) x[v] = round_to_int(load(latent + i + v * W) * inverse);
      set_bytes(x, i, d.rank, lane, (uint8_t*)q.pairs);
    }
    return;
  }
  for (int i = 0; i < d.rank; i += W) {
    vi x = round_to_int(load(latent + i) * inverse);
    for (int j = 0; j < W; j += 2)
      q.pairs[(i + j) / 2 * kLanes + lane] = (int32_t)((uint32_t)x[j] & 0xffff) | (int32_t)((uint32_t)x[j + 1] << 16);
  }
}

static void clear_lane(const LaneQueries& q, const LatentDims& d, int lane) {
  for (int i = 0; i < d.all; i++) q.latent[i * kLanes + lane] = 0.0f;  // of integers the same bits, fewer of them
  q.scale[lane] = 0.0f;
}

// ---- scores ---------------------------------------------------------------------------------------------------

#if !defined(DW_NEON)
// Sums of pairs of 16-bit products.
DW_INLINE vi dot16(vi acc, vi a, vi b) {
#if defined(DW_AVX512) && !defined(DW_EMULATE_AVX512)
  return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(DW_AVX2)
  // Left alone, GCC computes all products of a step first and spills sums.
  vi t;
  asm("vpmaddwd %[b], %[a], %[t]\n\tvpaddd %[t], %[acc], %[acc]" : [acc] "+x"(acc), [t] "=&x"(t) : [a] "x"(a), [b] "x"(b));
  return acc;
#else
  return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
#endif

// s[t][16] = (begin ? 0 : s) + q^T x for R tokens of `dims` dimensions.
template <int R>
static void score_tile(const float* x, const float* q, int dims, float* s, bool begin) {
  for (int v = 0; v < kLaneVectors; v += kLaneStep) {
    vf acc[R][kLaneStep];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kLaneStep; c++) acc[r][c] = begin ? vf{} : load(s + r * kLanes + (v + c) * W);
#pragma GCC unroll 2
    for (int d = 0; d < dims; d++) {
      vf query[kLaneStep];
      for (int c = 0; c < kLaneStep; c++) query[c] = load(q + d * kLanes + (v + c) * W);
      for (int r = 0; r < R; r++)
        for (int c = 0; c < kLaneStep; c++) acc[r][c] = fma(set1(x[r * kScoreDims + d]), query[c], acc[r][c]);
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kLaneStep; c++) store(s + r * kLanes + (v + c) * W, acc[r][c]);
  }
}

// The same with pairs of int16: x [R][2 kScoreDims], q [pairs][16].
template <int R>
static void score_tile(const int16_t* x, const int32_t* q, int pairs, int32_t* s, bool begin) {
  for (int v = 0; v < kLaneVectors; v += kLaneStep) {
    vi acc[R][kLaneStep];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kLaneStep; c++) acc[r][c] = begin ? vi{} : load_bytes(s + r * kLanes + (v + c) * W);
#pragma GCC unroll 4
    for (int d = 0; d < pairs; d++) {
      vi query[kLaneStep];
      for (int c = 0; c < kLaneStep; c++) query[c] = load_bytes(q + d * kLanes + (v + c) * W);
      for (int r = 0; r < R; r++) {
        vi pair = set1i(((const int32_t*)(x + r * 2 * kScoreDims))[d]);
        for (int c = 0; c < kLaneStep; c++) acc[r][c] = dot16(acc[r][c], query[c], pair);
      }
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kLaneStep; c++) *(viu*)(s + r * kLanes + (v + c) * W) = acc[r][c];
  }
}

template <class X, class Q>
DW_INLINE void score_tiles(const X* x, int stride, const Q* q, int dims, int tokens, Q* s, bool begin) {
  using Tile = void (*)(const X*, const Q*, int, Q*, bool);
  static constexpr Tile tiles[] = {
      score_tile<1>, score_tile<2>, score_tile<3>, score_tile<4>, score_tile<5>, score_tile<6>,
#if defined(DW_AVX512)
      score_tile<7>, score_tile<8>, score_tile<9>, score_tile<10>, score_tile<11>, score_tile<12>,
#endif
  };
  for (int t = 0; t < tokens; t += kTileTokens) {
    int n = min_of(tokens - t, kTileTokens);
    tiles[n - 1](x + t * stride, q, dims, s + t * kLanes, begin);
  }
}

// Lane groups that attend to one piece together: group g to its first visible[g] tokens.
struct LaneGroups {
  int count;
  const LaneQueries* queries;
  const int* visible;
  float* scores;  // [count][256][16]
};

constexpr int kGroupScores = kPieceTokens * kLanes;

DW_INLINE int most_visible(const LaneGroups& g) {
  int most = 0;
  for (int i = 0; i < g.count; i++) most = max_of(most, g.visible[i]);
  return most;
}

// Scores over `dims` float dimensions that lie `offset` bytes into a block, `stride` elements a token; `of(queries)` has them.
template <class T, class Of>
static void float_scores(const LatentPiece& piece, size_t offset, int stride, int dims, const LaneGroups& g, float* widened,
                         bool begin, const Of& of) {
  int most = most_visible(g);
  for (int t0 = 0; t0 < most; t0 += kScoreTokens) {
    int tokens = min_of(most - t0, kScoreTokens);
    for (int d0 = 0; d0 < dims; d0 += kScoreDims) {
      int n = min_of(dims - d0, kScoreDims);
      for (int t = 0; t < tokens; t++) {
        const T* from = (const T*)(piece.blocks[(t0 + t) / kBlockTokens] + offset) + (size_t)((t0 + t) % kBlockTokens) * stride;
        load_runs(from + d0, n, widened + t * kScoreDims);
        int next = t0 + t + kScoreTokens;
        if (next < most)
          prefetch_bytes((const T*)(piece.blocks[next / kBlockTokens] + offset) + (size_t)(next % kBlockTokens) * stride + d0,
                         n * (int)sizeof(T));
      }
      for (int i = 0; i < g.count; i++) {
        int seen = min_of(g.visible[i] - t0, tokens);
        if (seen > 0)
          score_tiles(widened, kScoreDims, of(g.queries[i]) + (size_t)d0 * kLanes, n, seen,
                      g.scores + (size_t)i * kGroupScores + t0 * kLanes, begin && d0 == 0);
      }
    }
  }
}

typedef int16_t pairs16 __attribute__((vector_size(32), may_alias, aligned(1)));
typedef int8_t bytes16 __attribute__((vector_size(16), may_alias, aligned(1)));

DW_INLINE pairs16 widen16(const int8_t* p) {
#if defined(DW_AVX2)
  return (pairs16)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
#else
  return __builtin_convertvector(*(const bytes16*)p, pairs16);
#endif
}

// Scores of int8 latents, without k_pe: sums of integers, then times both scales.
static void integer_scores(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, float* scratch) {
  int most = most_visible(g);
  int16_t* widened = (int16_t*)scratch;  // [48][192]
  constexpr int kDims = 2 * kScoreDims;
  for (int t0 = 0; t0 < most; t0 += kScoreTokens) {
    int tokens = min_of(most - t0, kScoreTokens);
    for (int d0 = 0; d0 < d.rank; d0 += kDims) {
      int n = min_of(d.rank - d0, kDims);
      for (int t = 0; t < tokens; t += 2) {
        int slot = (t0 + t) % kBlockTokens;
        const int8_t* from = (const int8_t*)piece.blocks[(t0 + t) / kBlockTokens] + ((size_t)(slot / 2) * d.rank + d0) * 2;
        for (int i = 0; i < n; i += 16) {
          pairs16 both = *(const pairs16*)(from + 2 * i);
          *(pairs16*)(widened + t * kDims + i) = (both << 8) >> 8;
          *(pairs16*)(widened + (t + 1) * kDims + i) = both >> 8;
        }
        int next = t0 + t + kScoreTokens;
        if (next < most)
          prefetch_bytes(piece.blocks[next / kBlockTokens] + ((size_t)(next % kBlockTokens / 2) * d.rank + d0) * 2, 2 * n);
      }
      for (int i = 0; i < g.count; i++) {
        int seen = min_of(g.visible[i] - t0, tokens);
        if (seen > 0)
          score_tiles(widened, kDims, g.queries[i].pairs + (size_t)d0 / 2 * kLanes, n / 2, seen,
                      (int32_t*)g.scores + (size_t)i * kGroupScores + t0 * kLanes, d0 == 0);
      }
    }
  }
  for (int i = 0; i < g.count; i++)
    for (int t = 0; t < g.visible[i]; t++) {
      float scale = ((const float*)(piece.blocks[t / kBlockTokens] + d.scale_bytes))[t % kBlockTokens];
      float* s = g.scores + (size_t)i * kGroupScores + t * kLanes;
      for (int v = 0; v < kLanes; v += W) store(s + v, to_float(load_bytes(s + v)) * (load(g.queries[i].scale + v) * scale));
    }
}

// ---- softmax and weighted sum ---------------------------------------------------------------------------------

// What a lane group gets from a piece, unnormalised: [16] max, [16] sum, [16][rank] weighted sum of latents.
DW_INLINE size_t record_floats(const LatentDims& d) { return (size_t)kLanes * (2 + d.rank); }

// scores [tokens][16] -> weights in place; max and sum into the record.
static void softmax_lanes(float* scores, int tokens, float* record) {
  for (int v = 0; v < kLanes; v += W) {
    vf top = load(scores + v);
    for (int t = 1; t < tokens; t++) top = vmax(top, load(scores + t * kLanes + v));
    vf sum = vf{};
    for (int t = 0; t < tokens; t++) {
      vf e = vexp(load(scores + t * kLanes + v) - top);
      sum += e;
      store(scores + t * kLanes + v, e);
    }
    store(record + v, top);
    store(record + kLanes + v, sum);
  }
}

// out[R][stride] (+)= p^T x: p [tokens][16] from lane 0 on, x [tokens][kValueDims].
template <int R>
static void value_tile(const float* p, const float* x, int tokens, float* out, int stride, bool begin) {
  for (int c0 = 0; c0 < kValueDims; c0 += kValueVectors * W) {
    vf acc[R][kValueVectors];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kValueVectors; c++) acc[r][c] = begin ? vf{} : load(out + (size_t)r * stride + c0 + c * W);
#pragma GCC unroll 2
    for (int t = 0; t < tokens; t++) {
      vf value[kValueVectors];
      for (int c = 0; c < kValueVectors; c++) value[c] = load(x + t * kValueDims + c0 + c * W);
      for (int r = 0; r < R; r++)
        for (int c = 0; c < kValueVectors; c++) acc[r][c] = fma(set1(p[t * kLanes + r]), value[c], acc[r][c]);
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kValueVectors; c++) store(out + (size_t)r * stride + c0 + c * W, acc[r][c]);
  }
}

// The same with pairs of tokens as int16; `out` are integers.
template <int R>
static void value_tile(const int32_t* p, const int32_t* x, int pairs, int32_t* out, int stride, bool begin) {
  for (int c0 = 0; c0 < kValueDims; c0 += kValueVectors * W) {
    vi acc[R][kValueVectors];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kValueVectors; c++) acc[r][c] = begin ? vi{} : load_bytes(out + (size_t)r * stride + c0 + c * W);
#pragma GCC unroll 4
    for (int t = 0; t < pairs; t++) {
      vi value[kValueVectors];
      for (int c = 0; c < kValueVectors; c++) value[c] = load_bytes(x + t * kValueDims + c0 + c * W);
      for (int r = 0; r < R; r++) {
        vi weight = set1i(p[t * kLanes + r]);
        for (int c = 0; c < kValueVectors; c++) acc[r][c] = dot16(acc[r][c], value[c], weight);
      }
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < kValueVectors; c++) *(viu*)(out + (size_t)r * stride + c0 + c * W) = acc[r][c];
  }
}

// All lanes, in tiles of even size.
template <class X>
DW_INLINE void value_tiles(int lanes, const X* p, const X* x, int count, X* out, int stride, bool begin) {
  using Tile = void (*)(const X*, const X*, int, X*, int, bool);
  static constexpr Tile tiles[] = {
      value_tile<1>, value_tile<2>, value_tile<3>, value_tile<4>, value_tile<5>, value_tile<6>,
#if defined(DW_AVX512)
      value_tile<7>, value_tile<8>, value_tile<9>, value_tile<10>, value_tile<11>, value_tile<12>,
#endif
  };
  int parts = ceil_div(lanes, kQueryTile);
  for (int part = 0, first = 0, n; part < parts; part++, first += n) {
    n = ceil_div(lanes - first, parts - part);
    tiles[n - 1](p + first, x, count, out + (size_t)first * stride, stride, begin);
  }
}

// records[g] [16][rank] = weights^T latents of the visible tokens.
template <class T>
static void float_values(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes, float* const* records,
                         float* widened) {
  int most = most_visible(g);
  for (int t0 = 0; t0 < most; t0 += kValueTokens) {
    int tokens = min_of(most - t0, kValueTokens);
    for (int d0 = 0; d0 < d.rank; d0 += kValueDims) {
      for (int t = 0; t < tokens; t++) {
        const T* from = (const T*)piece.blocks[(t0 + t) / kBlockTokens] + (size_t)((t0 + t) % kBlockTokens) * d.all;
        load_runs(from + d0, kValueDims, widened + t * kValueDims);
      }
      for (int i = 0; i < g.count; i++) {
        int seen = min_of(g.visible[i] - t0, tokens);
        if (seen > 0)
          value_tiles(lanes[i], (const float*)g.scores + (size_t)i * kGroupScores + t0 * kLanes, (const float*)widened, seen,
                      records[i] + 2 * kLanes + d0, d.rank, t0 == 0);
      }
    }
  }
}

// Weights [tokens][16] -> pairs of tokens [tokens / 2][16] in place, the tokens' scales multiplied in; their scale to `unit`.
static void round_weights(float* weights, const LatentPiece& piece, const LatentDims& d, int tokens, float* unit) {
  for (int v = 0; v < kLanes; v += W) {
    vf most = vf{};
    for (int t = 0; t < tokens; t++) {
      float scale = ((const float*)(piece.blocks[t / kBlockTokens] + d.scale_bytes))[t % kBlockTokens];
      vf w = load(weights + t * kLanes + v) * scale;
      most = vmax(most, w);
      store(weights + t * kLanes + v, w);
    }
    vf inverse = select(most > kSmallestPeak, (float)kIntegerPeak / most, vf{});
    store(unit + v, most / (float)kIntegerPeak);
    for (int t = 0; t < tokens; t += 2) {
      vi first = round_to_int(load(weights + t * kLanes + v) * inverse), second = vi{};
      if (t + 1 < tokens) second = round_to_int(load(weights + (t + 1) * kLanes + v) * inverse);
      *(viu*)(weights + t / 2 * kLanes + v) = (first & 0xffff) | (second << 16);
    }
  }
}

static void integer_values(const LatentPiece& piece, const LatentDims& d, const LaneGroups& g, const int* lanes,
                           float* const* records, float* scratch) {
  int most = most_visible(g);
  alignas(64) float unit[kLanes];
  int32_t* widened = (int32_t*)scratch;  // [128 pairs][32]
  for (int d0 = 0; d0 < d.rank; d0 += kValueDims) {
    for (int t = 0; t < most; t += 2) {
      const int8_t* from = (const int8_t*)piece.blocks[t / kBlockTokens] + ((size_t)(t % kBlockTokens / 2) * d.rank + d0) * 2;
      for (int i = 0; i < 2 * kValueDims; i += 16)
        *(pairs16*)((int16_t*)(widened + t / 2 * kValueDims) + i) = widen16(from + i);
    }
    for (int i = 0; i < g.count; i++) {
      float* weights = g.scores + (size_t)i * kGroupScores;
      if (g.visible[i] == 0) continue;
      int32_t* out = (int32_t*)(records[i] + 2 * kLanes + d0);
      value_tiles(lanes[i], (const int32_t*)weights, (const int32_t*)widened, (g.visible[i] + 1) / 2, out, d.rank, true);
      const float* units = weights + kGroupScores - kLanes;
      memcpy(unit, units, sizeof unit);
      for (int lane = 0; lane < lanes[i]; lane++)
        for (int c = 0; c < kValueDims; c += W) {
          float* at = (float*)out + (size_t)lane * d.rank + c;
          store(at, to_float(load_bytes(at)) * unit[lane]);
        }
    }
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
