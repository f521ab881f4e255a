// Attention over the paged cache.
//
// Cache block of one KV head: keys [head_dim][16], values [16][head_dim]. Lanes run over tokens in QK and over dimensions in PV, so a
// score is one chain of multiply-adds in dimension order and an output one chain in token order, however many query vectors are
// computed together. Softmax pieces of 256 tokens are merged in order. Masked tokens contribute exact zeros. A query's
// result therefore has the same bits in prefill, in decode and in any batch.
//
// A "query vector" is one head of one row; the vectors of a KV head's group share its keys and values.
#pragma once
#include "common.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

#if defined(DW_AVX512)
constexpr int kQueryTile = 12;  // 12 x 1 accumulators of 16 tokens
#else
constexpr int kQueryTile = 6;  // 6 x 2 accumulators of 8 tokens
#endif
constexpr int kTokenVectors = kBlockTokens / W;

// Scores and partial result of up to kQueryTile vectors over one piece.
struct Softmax {
  float max, sum;
};

struct Piece {         // float keys and values of up to 256 tokens
  const float* keys;    // [blocks][head_dim][16]
  const float* values;  // [tokens][head_dim]
};

// Scratch of one thread.
DW_INLINE size_t attention_scratch_floats(int head_dim) {
  return (size_t)kPieceTokens * head_dim * 2 + kQueryTile * kPieceTokens + 64;
}

template <int R>
DW_INLINE void scores_block(const float* const* q, const float* keys, int head_dim, float* out) {
  vf s[R][kTokenVectors] = {};
  for (int d = 0; d < head_dim; d++) {
    vf k[kTokenVectors];
    for (int t = 0; t < kTokenVectors; t++) k[t] = load(keys + d * kBlockTokens + t * W);
    for (int r = 0; r < R; r++)
      for (int t = 0; t < kTokenVectors; t++) s[r][t] = fma(set1(q[r][d]), k[t], s[r][t]);
  }
  for (int r = 0; r < R; r++)
    for (int t = 0; t < kTokenVectors; t++) store(out + r * kPieceTokens + t * W, s[r][t]);
}

template <int R, int C>
DW_INLINE void weighted_values(const float* p, const float* values, int tokens, int head_dim, float* const* out) {
  vf o[R][C] = {};
  for (int t = 0; t < tokens; t++) {
    vf v[C];
    for (int c = 0; c < C; c++) v[c] = load(values + (size_t)t * head_dim + c * W);
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) o[r][c] = fma(set1(p[r * kPieceTokens + t]), v[c], o[r][c]);
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out[r] + c * W, o[r][c]);
}

template <int R>
static void scores_piece(const float* const* q, const Piece& piece, int blocks, int head_dim, float* scores) {
  for (int b = 0; b < blocks; b++)
    scores_block<R>(q, piece.keys + (size_t)b * head_dim * kBlockTokens, head_dim, scores + b * kBlockTokens);
}

template <int R>
static void values_piece(const float* scores, const Piece& piece, int tokens, int head_dim, float* const* out) {
  float* at[R];
  int d = 0;
  for (; d + kTokenVectors * W <= head_dim; d += kTokenVectors * W) {
    for (int r = 0; r < R; r++) at[r] = out[r] + d;
    weighted_values<R, kTokenVectors>(scores, piece.values + d, tokens, head_dim, at);
  }
  for (; d + W <= head_dim; d += W) {
    for (int r = 0; r < R; r++) at[r] = out[r] + d;
    weighted_values<R, 1>(scores, piece.values + d, tokens, head_dim, at);
  }
  for (; d < head_dim; d++)
    for (int r = 0; r < R; r++) {
      float o = 0.0f;
      for (int t = 0; t < tokens; t++) o = fma1(scores[r * kPieceTokens + t], piece.values[(size_t)t * head_dim + d], o);
      out[r][d] = o;
    }
}

// Attend R vectors to the first visible[r] tokens of a piece (0: nothing): out[r] = sum e^(s - max) v, unnormalised.
template <int R>
static void attend_piece(const float* const* q, const int* visible, const Piece& piece, int head_dim, float* scores,
                         float* const* out, Softmax* softmax) {
  int most = 0;
  for (int r = 0; r < R; r++) most = visible[r] > most ? visible[r] : most;
  int blocks = (most + kBlockTokens - 1) / kBlockTokens;
  scores_piece<R>(q, piece, blocks, head_dim, scores);
  for (int r = 0; r < R; r++) {
    float* s = scores + r * kPieceTokens;
    for (int t = visible[r]; t < blocks * kBlockTokens; t++) s[t] = -__builtin_inff();
    vf top = set1(-__builtin_inff());
    for (int t = 0; t < blocks * kBlockTokens; t += W) top = vmax(top, load(s + t));
    float max = reduce_max(top);
    vf total = vf{};
    for (int t = 0; t < blocks * kBlockTokens; t += W) {
      vf e = vexp(load(s + t) - (visible[r] ? max : 0.0f));
      store(s + t, e);
      total += e;
    }
    softmax[r] = {max, reduce_add(total)};
  }
  values_piece<R>(scores, piece, most, head_dim, out);
}

// (to, softmax) += (from, piece), both unnormalised.
static void merge_piece(float* to, Softmax* softmax, const float* from, Softmax piece, int head_dim) {
  if (piece.sum == 0.0f) return;
  float max = softmax->max > piece.max ? softmax->max : piece.max;
  float keep = vexp(set1(softmax->max - max))[0], add = vexp(set1(piece.max - max))[0];
  int d = 0;
  for (; d + W <= head_dim; d += W) store(to + d, fma(load(from + d), set1(add), load(to + d) * keep));
  for (; d < head_dim; d++) to[d] = fma1(from[d], add, to[d] * keep);
  softmax->sum = fma1(piece.sum, add, softmax->sum * keep);
  softmax->max = max;
}

static void scale_row(float* x, float scale, int n) {
  int i = 0;
  for (; i + W <= n; i += W) store(x + i, load(x + i) * scale);
  for (; i < n; i++) x[i] *= scale;
}

DW_INLINE const uint8_t* cache_head(const KVCache& cache, int layer, int block, int kv_head) {
  return cache.data + layer * cache.layer_bytes + block * cache.block_bytes + kv_head * cache.head_bytes;
}

// Keys and values of tokens [256 * piece, 256 * piece + tokens) as floats in scratch (fp32 caches are copied too: blocks of a
// sequence are scattered, and one contiguous piece is read by every query tile).
static Piece gather_piece(const KVCache& cache, int layer, int kv_head, const int32_t* table, int piece, int tokens,
                          float* scratch) {
  int n = cache.head_dim * kBlockTokens;
  float* keys = scratch;
  float* values = scratch + (size_t)kPieceTokens * cache.head_dim;
  int blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  for (int b = 0; b < blocks; b++) {
    const uint8_t* source = cache_head(cache, layer, table[piece * (kPieceTokens / kBlockTokens) + b], kv_head);
    if (cache.bf16) {
      const uint16_t* k = (const uint16_t*)source;
      for (int i = 0; i < n; i += W) store(keys + b * n + i, load_bf16(k + i));
      for (int i = 0; i < n; i += W) store(values + b * n + i, load_bf16(k + n + i));
    } else {
      memcpy(keys + b * n, source, n * 4);
      memcpy(values + b * n, source + n * 4, n * 4);
    }
  }
  return {keys, values};
}

// x: [head_dim] rotated in place; pairs (i, i + head_dim / 2).
DW_INLINE void rope_head(float* x, const float* cos, const float* sin, int head_dim) {
  int half = head_dim / 2, i = 0;
  for (; i + W <= half; i += W) {
    vf a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(x + i, a * c - b * s);
    store(x + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

static void write_kv(const KVCache& cache, int layer, int block, int kv_head, int slot, const float* k, const float* v) {
  uint8_t* to = (uint8_t*)cache_head(cache, layer, block, kv_head);
  int n = cache.head_dim * kBlockTokens;
  if (cache.bf16) {
    uint16_t* keys = (uint16_t*)to;
    for (int d = 0; d < cache.head_dim; d++) keys[d * kBlockTokens + slot] = to_bf16(k[d]);
    for (int d = 0; d < cache.head_dim; d++) keys[n + slot * cache.head_dim + d] = to_bf16(v[d]);
  } else {
    float* keys = (float*)to;
    for (int d = 0; d < cache.head_dim; d++) keys[d * kBlockTokens + slot] = k[d];
    memcpy(keys + n + slot * cache.head_dim, v, cache.head_dim * 4);
  }
}

using AttendFunction = void (*)(const float* const*, const int*, const Piece&, int, float*, float* const*, Softmax*);

DW_INLINE void attend(int vectors, const float* const* q, const int* visible, const Piece& piece, int head_dim,
                      float* scores, float* const* out, Softmax* softmax) {
  static constexpr AttendFunction table[] = {
      attend_piece<1>, attend_piece<2>, attend_piece<3>, attend_piece<4>, attend_piece<5>, attend_piece<6>,
#if defined(DW_AVX512)
      attend_piece<7>, attend_piece<8>, attend_piece<9>, attend_piece<10>, attend_piece<11>, attend_piece<12>,
#endif
  };
  table[vectors - 1](q, visible, piece, head_dim, scores, out, softmax);
}

}  // namespace DW_ISA
}  // namespace deepwell
