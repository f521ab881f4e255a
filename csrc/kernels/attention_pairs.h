// Attention to pages of bf16 where the processor multiplies pairs of them.
//
// Queries and softmax weights are rounded to bf16, as keys and values are. `vdpbf16ps` adds the product of the odd element of a pair, then
// that of the even one. A score is such a chain over the pairs of dimensions and an output one over the pairs of tokens of a piece, however
// many query vectors are computed together: a query's result has the same bits in prefill, in decode and in any batch. Masked tokens have
// weights of zero; a pair's token that does not exist counts as zeros.
//
// Pages stay as they are: a vector of 32 numbers holds two dimensions of a key for 16 tokens, which one shuffle pairs; two tokens of
// 32 dimensions of values take two. AMX adds in another order (attention_tiles.h).
//
// NOTE cost. Two dimensions of 16 keys take a load, a shuffle and a product for each query; as floats they took two loads, two conversions,
// two shifts and two products.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

#if defined(DW_BF16_DOT)
namespace deepwell {
namespace DW_ISA {

constexpr int kPairDims = 32;  // head_dim is a multiple

// Are queries and weights rounded to bf16?
DW_INLINE bool attends_in_pairs(const KVCache& cache, int head_dim) {
  return cache.type == kKvBf16 && head_dim % kPairDims == 0;
}

DW_INLINE vf rounded_to_bf16(vf v) {
  vi u = (vi)v;
  return (vf)((u + 0x7fff + ((u >> 16) & 1)) & (int32_t)0xffff0000);
}

static void round_query(float* q, int head_dim) {
  for (int d = 0; d < head_dim; d += W) store(q + d, rounded_to_bf16(load(q + d)));
}

// Weights of the first `visible` > 0 of a vector's scores, zeros from there to `end`; `put(t, weights)` receives W at a time.
template <class Put>
DW_INLINE Softmax soften(const float* s, int visible, int end, const Put& put) {
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const vf none = set1(-__builtin_inff());
  const int whole = visible / W * W;
  const vi seen = lane < visible - whole;
  vf top = none, other = none;
  int t = 0;
  for (; t + 2 * W <= whole; t += 2 * W) top = vmax(top, load(s + t)), other = vmax(other, load(s + t + W));
  if (t < whole) top = vmax(top, load(s + t));
  if (whole < visible) other = vmax(other, select(seen, load(s + whole), none));
  const float max = reduce_max(vmax(top, other));
  const vf shift = set1(-max * kLog2e);
  vf total = vf{};
  for (t = 0; t < whole; t += W) {
    vf e = power_of_two(fma(load(s + t), set1(kLog2e), shift));
    total += e;
    put(t, e);
  }
  if (whole < visible) {
    vf e = select(seen, power_of_two(fma(load(s + whole), set1(kLog2e), shift)), vf{});
    total += e;
    put(whole, e);
    t += W;
  }
  for (; t < end; t += W) put(t, vf{});
  return {max, reduce_add(total)};
}

// ---- products of pairs --------------------------------------------------------------------------------------------------------------

DW_INLINE vi pair_at(const uint16_t* pairs) {
  int32_t pair;
  memcpy(&pair, pairs, 4);
  return set1i(pair);
}

// Scores of R vectors against B blocks from `b` on; q: [R][head_dim] bf16.
template <int R, int B>
DW_INLINE void dot_scores(const uint16_t* q, const Piece& piece, int b, int head_dim, float* out) {
  const size_t half_bytes = (size_t)head_dim * kBlockTokens * sizeof(uint16_t);
  const uint8_t* keys[B];
  const uint8_t* ahead[B];
  const bool own = !piece.ahead;
  for (int i = 0; i < B; i++) {
    keys[i] = piece.blocks[b + i];
    ahead[i] = half_ahead(piece, b + i, half_bytes);
    if (!ahead[i]) ahead[i] = piece.blocks[min_of(b + i + B, max_of(piece.count - 1, b + i))];
  }
  vf s[B][R] = {};
  for (int d = 0; d < head_dim; d += 2) {
    const size_t at = (size_t)d * kBlockTokens * sizeof(uint16_t);
    vi k[B];
    for (int i = 0; i < B; i++) {
      prefetch_later(ahead[i] + at);
      if (own) prefetch_later(keys[i] + half_bytes + at);
      k[i] = pair_halves((const uint16_t*)(keys[i] + at));
    }
    for (int r = 0; r < R; r++) {
      const vi query = pair_at(q + r * head_dim + d);
      for (int i = 0; i < B; i++) s[i][r] = dpbf16(s[i][r], k[i], query);
    }
  }
  for (int i = 0; i < B; i++)
    for (int r = 0; r < R; r++) store(out + r * kPieceTokens + (b + i) * kBlockTokens, s[i][r]);
}

// out[r] = sum over tokens of p[r] v, for S runs of 32 dimensions from `d` on; p: [R][2 * kPieceTokens] bf16, of which the first half counts.
template <int R, int S>
DW_INLINE void dot_values(const uint16_t* p, const Piece& piece, int tokens, int head_dim, int d, float* const* out) {
  alignas(64) static const uint16_t none[kPairDims] = {};
  const size_t half_bytes = (size_t)head_dim * kBlockTokens * sizeof(uint16_t);
  const int blocks = ceil_div(tokens, kBlockTokens);
  vf o[R][S][2] = {};
  for (int b = 0; b < blocks; b++) {
    const uint16_t* v = (const uint16_t*)(piece.blocks[b] + half_bytes) + d;
    const uint8_t* ahead = half_ahead(piece, blocks + b, half_bytes);
    const int first = b * kBlockTokens, n = min_of(tokens - first, kBlockTokens);
    for (int t = 0; t < n; t += 2) {
      for (int i = 0; i < S; i++) {
        const uint16_t* row = v + (size_t)t * head_dim + i * kPairDims;
        if (ahead) prefetch_bytes(ahead + ((d / kPairDims + i) * kBlockTokens + t) * 64, 128);
        vi value[2];
        pair_rows(row, t + 1 < n ? row + head_dim : none, value);
        for (int r = 0; r < R; r++) {
          const vi weight = pair_at(p + r * 2 * kPieceTokens + first + t);
          for (int c = 0; c < 2; c++) o[r][i][c] = dpbf16(o[r][i][c], value[c], weight);
        }
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < S; i++) order_pair_rows(o[r][i], out[r] + d + i * kPairDims);
}

// `attend_piece` in pairs; queries are rounded already.
template <int R>
static void attend_dots(const float* const* q, const int* visible, const Piece& piece, int head_dim, int, float* scores,
                        float* const* out, Softmax* softmax) {
  constexpr int B = R == 1 ? 8 : R <= 3 ? 4 : 2;  // chains that hide the latency of a product
  alignas(64) uint16_t queries[R * kMaxHeadDim];
  int most = 0, b = 0;
  for (int r = 0; r < R; r++) {
    most = max_of(most, visible[r]);
    for (int d = 0; d < head_dim; d += W) narrow_bf16(queries + r * head_dim + d, load(q[r] + d));
  }
  const int blocks = ceil_div(most, kBlockTokens);
  for (; b + B <= blocks; b += B) dot_scores<R, B>(queries, piece, b, head_dim, scores);
  if (B > 2)
    for (; b + 2 <= blocks; b += 2) dot_scores<R, 2>(queries, piece, b, head_dim, scores);
  for (; b < blocks; b++) dot_scores<R, 1>(queries, piece, b, head_dim, scores);
  for (int r = 0; r < R; r++) {
    float* s = scores + r * kPieceTokens;
    uint16_t* weights = (uint16_t*)s;
    if (visible[r]) {
      softmax[r] = soften(s, visible[r], blocks * kBlockTokens, [&](int t, vf e) { narrow_bf16(weights + t, e); });
    } else {
      softmax[r] = {-__builtin_inff(), 0.0f};
      memset(weights, 0, (size_t)blocks * kBlockTokens * sizeof(uint16_t));
    }
  }
  constexpr int S = R <= 6 ? 2 : 1;
  int d = 0;
  for (; d + S * kPairDims <= head_dim; d += S * kPairDims)
    dot_values<R, S>((const uint16_t*)scores, piece, most, head_dim, d, out);
  for (; d < head_dim; d += kPairDims) dot_values<R, 1>((const uint16_t*)scores, piece, most, head_dim, d, out);
}

struct InPairs;  // pages of bf16, multiplied by pairs
template <>
struct Attend<InPairs> {
  template <int R>
  static constexpr AttendFunction with = attend_dots<R>;
};

}  // namespace DW_ISA
}  // namespace deepwell
#endif
