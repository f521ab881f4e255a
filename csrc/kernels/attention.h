// Attention over the paged cache.
//
// Cache block of one KV head: keys [head_dim][16], values [16][head_dim]. Lanes run over tokens in QK and over dimensions in PV, so a
// score is one chain of multiply-adds in dimension order and an output one chain in token order, however many query vectors are
// computed together. Softmax pieces of 256 tokens are merged in order. Masked tokens contribute exact zeros. A query's
// result therefore has the same bits in prefill, in decode and in any batch.
//
// int8 pages hold one scale a key and one a value. A key's scale multiplies its score, a value's its softmax weight: the inner
// loops convert integers and multiply nothing.
//
// On AMX pages of bf16 are multiplied as tiles, in another order (attention_tiles.h).
//
// A "query vector" is one head of one row; the vectors of a KV head's group share its keys and values.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

#if defined(DW_AVX512)
constexpr int kQueryTile = 12;  // 12 x 1 accumulators of 16 tokens
#else
constexpr int kQueryTile = 6;  // 6 x 2 accumulators of 8 tokens
#endif
constexpr int kTokenVectors = kBlockTokens / W;
constexpr float kSmallestPeak = 1e-36f;  // int8 pages: below, 127 / peak may overflow, and the row is stored as zeros

// Scores and partial result of up to kQueryTile vectors over one piece.
struct Softmax {
  float max, sum;
};

constexpr int kPieceBlocks = kPieceTokens / kBlockTokens;

DW_INLINE int pieces_of(int tokens) { return ceil_div(tokens, kPieceTokens); }

// Pieces of what a sequence remembers.
DW_INLINE int memory_pieces(const Batch& b, int s) {
  const Memory* m = b.memories ? b.memories[s] : nullptr;
  return m ? m->count * pieces_of(m->tokens) : 0;
}

struct Piece {  // up to 256 tokens of one KV head: where each block's keys and values lie
  const uint8_t* blocks[kPieceBlocks];
  const float* scales[kPieceBlocks];  // of 16 keys, then of 16 values, where `scaled`
  bool scaled = false;
  int count = 0;                 // blocks that are known
  const Piece* ahead = nullptr;  // what is read next
};

// What a thread reads next is asked for in the order of memory, half a block beside each step of this piece: `b` of its scores, then `blocks + b`
// of its values. Into the second-level cache, which has more misses under way than the first (12 instead of 8 GB/s of one core).
DW_INLINE const uint8_t* half_ahead(const Piece& piece, int step, size_t half_bytes) {
  return piece.ahead && step / 2 < piece.ahead->count ? piece.ahead->blocks[step / 2] + step % 2 * half_bytes : nullptr;
}

// Floats of one thread's scratch: scores of a micro-tile, and a piece widened to float.
constexpr size_t attention_scratch_floats(int head_dim) {
  return (size_t)kQueryTile * kPieceTokens + (size_t)kPieceTokens * head_dim * 2;
}

// Cached elements come in runs of 16 (the tokens of a key dimension, 16 dimensions of a value). AVX2 keeps a bf16 run as 8 pairs
// (i, i + 8): one load, a shift and a mask give two vectors, half the work of widening 8 at a time.
#if defined(DW_AVX2)
DW_INLINE int run_slot(int i) { return (i & ~15) + 2 * (i & 7) + ((i >> 3) & 1); }
DW_INLINE void load_run(const uint16_t* p, vf* out) {
  vi pairs = load_bytes(p);
  out[0] = (vf)(pairs << 16);
  out[1] = (vf)(pairs & (int32_t)0xffff0000);
}
#else
DW_INLINE int run_slot(int i) { return i; }
DW_INLINE void load_run(const uint16_t* p, vf* out) {
  for (int i = 0; i < kTokenVectors; i++) out[i] = load_bf16(p + i * W);
}
#endif
DW_INLINE void load_run(const float* p, vf* out) {
  for (int i = 0; i < kTokenVectors; i++) out[i] = load(p + i * W);
}
DW_INLINE void load_run(const int8_t* p, vf* out) {
  for (int i = 0; i < kTokenVectors; i++) out[i] = to_float(load_int8(p + i * W));
}

DW_INLINE float widen(float v) { return v; }
DW_INLINE float widen(int8_t v) { return (float)v; }
DW_INLINE float widen(uint16_t v) {
  uint32_t u = (uint32_t)v << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// Three vectors times two runs leave no register for the three broadcast factors: forget them, they reload for free.
#define DW_REGISTER_LIMIT(R) \
  if constexpr (R == 3) asm volatile("" ::: "memory")

// Narrow types come from the cache in memory, whose blocks lie apart: the keys of the next ones are asked for meanwhile. Floats are a widened
// copy that is at hand.
template <class T>
constexpr bool reads_cache = sizeof(T) < sizeof(float);

// Scores of R vectors against B blocks from `first` on: few vectors need several blocks in flight to hide the latency of the sums.
template <int R, int B, class T>
DW_INLINE void scores_blocks(const float* const* q, const Piece& piece, int first, int head_dim, float* out) {
  const size_t half_bytes = (size_t)head_dim * kBlockTokens * sizeof(T);
  const T* keys[B];
  const uint8_t* ahead[B];
  const bool own = !piece.ahead;  // nothing is known of what comes next: this piece's next keys, and its values
  for (int b = 0; b < B; b++) {
    keys[b] = (const T*)piece.blocks[first + b];
    ahead[b] = half_ahead(piece, first + b, half_bytes);
    if (!ahead[b]) ahead[b] = piece.blocks[min_of(first + b + B, max_of(piece.count - 1, first + b))];
  }
  vf s[B][R][kTokenVectors] = {};
  for (int d = 0; d < head_dim; d++)
    for (int b = 0; b < B; b++) {
      if (reads_cache<T> && d % (int)(sizeof(float) / sizeof(T)) == 0) {
        const size_t at = (size_t)d * kBlockTokens * sizeof(T);
        prefetch_later(ahead[b] + at);
        if (own) prefetch_later((const uint8_t*)keys[b] + half_bytes + at);
      }
      vf k[kTokenVectors];
      load_run(keys[b] + d * kBlockTokens, k);
      for (int r = 0; r < R; r++) {
        vf query = set1(q[r][d]);
        for (int t = 0; t < kTokenVectors; t++) s[b][r][t] = fma(query, k[t], s[b][r][t]);
        DW_REGISTER_LIMIT(R);
      }
    }
  for (int b = 0; b < B; b++)
    for (int r = 0; r < R; r++)
      for (int t = 0; t < kTokenVectors; t++) store(out + r * kPieceTokens + (first + b) * kBlockTokens + t * W, s[b][r][t]);
}

// out[r] = sum over tokens of p[r] v, for S runs of dimensions starting at `d`.
template <int R, int S, class T>
DW_INLINE void weighted_values(const float* p, const Piece& piece, int tokens, int key_dim, int head_dim, int d,
                               float* const* out) {
  vf o[R][S][kTokenVectors] = {};
  for (int first = 0; first < tokens; first += kBlockTokens) {
    const T* v = (const T*)piece.blocks[first / kBlockTokens] + (size_t)key_dim * kBlockTokens + d;
    const uint8_t* later = nullptr;
    if (reads_cache<T>) later = half_ahead(piece, ceil_div(tokens, kBlockTokens) + first / kBlockTokens, (size_t)key_dim * kBlockTokens * sizeof(T));
    if (later) later += d * kBlockTokens * sizeof(T);
    int n = min_of(tokens - first, kBlockTokens);
    for (int t = 0; t < n; t++) {
      const T* at = v + (size_t)t * head_dim;
      if (reads_cache<T> && later) prefetch_later(later + t * S * kBlockTokens * sizeof(T));
      for (int i = 0; i < S; i++) {
        vf value[kTokenVectors];
        load_run(at + i * kBlockTokens, value);
        for (int r = 0; r < R; r++) {
          vf weight = set1(p[r * kPieceTokens + first + t]);
          for (int c = 0; c < kTokenVectors; c++) o[r][i][c] = fma(weight, value[c], o[r][i][c]);
          DW_REGISTER_LIMIT(R);
        }
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < S; i++)
      for (int c = 0; c < kTokenVectors; c++) store(out[r] + d + i * kBlockTokens + c * W, o[r][i][c]);
}

template <int R, class T>
static void scores_piece(const float* const* q, const Piece& piece, int blocks, int head_dim, float* scores) {
  constexpr int B = R * kTokenVectors * 2 <= kQueryTile * kTokenVectors ? 2 : 1;
  int b = 0;
  for (; b + B <= blocks; b += B) scores_blocks<R, B, T>(q, piece, b, head_dim, scores);
  for (; b < blocks; b++) scores_blocks<R, 1, T>(q, piece, b, head_dim, scores);
}

template <int R, class T>
static void values_piece(const float* scores, const Piece& piece, int tokens, int key_dim, int head_dim, float* const* out) {
  constexpr int S = R * 2 <= kQueryTile ? 2 : 1;
  int d = 0;
  for (; d + S * kBlockTokens <= head_dim; d += S * kBlockTokens)
    weighted_values<R, S, T>(scores, piece, tokens, key_dim, head_dim, d, out);
  for (; d + kBlockTokens <= head_dim; d += kBlockTokens)
    weighted_values<R, 1, T>(scores, piece, tokens, key_dim, head_dim, d, out);
  for (; d < head_dim; d++)
    for (int r = 0; r < R; r++) {
      float o = 0.0f;
      for (int t = 0; t < tokens; t++) {
        const T* v = (const T*)piece.blocks[t / kBlockTokens] + (size_t)key_dim * kBlockTokens + t % kBlockTokens * head_dim;
        o = fma1(scores[r * kPieceTokens + t], widen(v[d]), o);
      }
      out[r][d] = o;
    }
}

// Attend R vectors to the first visible[r] tokens of a piece (0: nothing): out[r] = sum e^(s - max) v, unnormalised. Values may be
// of another width than keys.
template <int R, class T>
static void attend_piece(const float* const* q, const int* visible, const Piece& piece, int head_dim, int value_dim,
                         float* scores, float* const* out, Softmax* softmax) {
  int most = 0;
  for (int r = 0; r < R; r++) most = max_of(most, visible[r]);
  int blocks = ceil_div(most, kBlockTokens);
  scores_piece<R, T>(q, piece, blocks, head_dim, scores);
  for (int r = 0; r < R; r++) {
    float* s = scores + r * kPieceTokens;
    if (piece.scaled)
      for (int t = 0; t < blocks * kBlockTokens; t += W)
        store(s + t, load(s + t) * load(piece.scales[t / kBlockTokens] + t % kBlockTokens));
    for (int t = visible[r]; t < blocks * kBlockTokens; t++) s[t] = -__builtin_inff();
    vf top = set1(-__builtin_inff());
    for (int t = 0; t < blocks * kBlockTokens; t += W) top = vmax(top, load(s + t));
    float max = reduce_max(top);
    vf total = vf{};
    for (int t = 0; t < blocks * kBlockTokens; t += W) {
      vf e = vexp(load(s + t) - (visible[r] ? max : 0.0f));
      total += e;
      if (piece.scaled) e *= load(piece.scales[t / kBlockTokens] + kBlockTokens + t % kBlockTokens);
      store(s + t, e);
    }
    softmax[r] = {max, reduce_add(total)};
  }
  values_piece<R, T>(scores, piece, most, head_dim, value_dim, out);
}

// (to, softmax) += (from, piece), both unnormalised.
static void merge_piece(float* to, Softmax* softmax, const float* from, Softmax piece, int head_dim) {
  if (piece.sum == 0.0f) return;
  bool larger = softmax->max > piece.max;
  float max = larger ? softmax->max : piece.max, least = larger ? piece.max : softmax->max;
  float less = vexp(set1(least - max))[0], keep = larger ? 1.0f : less, add = larger ? less : 1.0f;
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

// Where the first `tokens` tokens of a piece lie.
static Piece find_piece(const KVCache& cache, int layer, int kv_head, const int32_t* table, int piece, int tokens) {
  Piece p;
  p.scaled = cache.type == kKvInt8;
  p.count = ceil_div(tokens, kBlockTokens);
  for (int b = 0; b * kBlockTokens < tokens; b++) {
    p.blocks[b] = cache_head(cache, layer, table[piece * kPieceBlocks + b], kv_head);
    if (p.scaled) p.scales[b] = (const float*)(p.blocks[b] + 2 * kBlockTokens * cache.head_dim);
  }
  return p;
}

// The same piece as floats in scratch: many query tiles read it. Scales stay apart, as in the pages.
template <class T>
static Piece widen_piece(const KVCache& cache, const Piece& from, int tokens, float* scratch) {
  Piece p = from;
  int runs = cache.head_dim / kBlockTokens * kBlockTokens, keys = cache.head_dim * kBlockTokens;
  vf run[kTokenVectors];
  for (int b = 0; b * kBlockTokens < tokens; b++) {
    const T* source = (const T*)from.blocks[b];
    float* to = scratch + (size_t)b * 2 * keys;
    p.blocks[b] = (const uint8_t*)to;
    for (int i = 0; i < keys; i += kBlockTokens) {
      load_run(source + i, run);
      for (int c = 0; c < kTokenVectors; c++) store(to + i + c * W, run[c]);
    }
    for (int t = 0; t < kBlockTokens; t++) {
      int row = keys + t * cache.head_dim;
      for (int i = 0; i < runs; i += kBlockTokens) {
        load_run(source + row + i, run);
        for (int c = 0; c < kTokenVectors; c++) store(to + row + i + c * W, run[c]);
      }
      for (int i = runs; i < cache.head_dim; i++) to[row + i] = widen(source[row + i]);
    }
  }
  return p;
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

// x: [n] -> q, rounded to nearest even, and its scale: x ~ q * scale.
static float quantize_head(const float* x, int n, int8_t* q) {
  vf peak = vf{};
  int i = 0;
  for (; i + W <= n; i += W) peak = vmax(peak, vmax(load(x + i), -load(x + i)));
  float amax = reduce_max(peak);
  for (; i < n; i++) amax = __builtin_fabsf(x[i]) > amax ? __builtin_fabsf(x[i]) : amax;
  float inverse = amax > kSmallestPeak ? 127.0f / amax : 0.0f;
  for (i = 0; i + W <= n; i += W) {
    vi rounded = round_to_int(load(x + i) * inverse);
    for (int j = 0; j < W; j++) q[i + j] = (int8_t)rounded[j];
  }
  for (; i < n; i++) q[i] = (int8_t)round_to_int(set1(x[i] * inverse))[0];
  return amax / 127.0f;
}

// x: [n] -> bf16.
static void round_head(const float* x, int n, uint16_t* to) {
  int i = 0;
  for (; i + W <= n; i += W) store_bf16(to + i, load(x + i));
  for (; i < n; i++) to[i] = to_bf16(x[i]);
}

static void write_kv(const KVCache& cache, int layer, int block, int kv_head, int slot, const float* k, const float* v) {
  uint8_t* to = (uint8_t*)cache_head(cache, layer, block, kv_head);
  int n = cache.head_dim * kBlockTokens;
  if (cache.type == kKvInt8) {
    int8_t *keys = (int8_t*)to, q[kMaxHeadDim];
    float* scales = (float*)(to + 2 * n);
    scales[slot] = quantize_head(k, cache.head_dim, q);
    for (int d = 0; d < cache.head_dim; d++) keys[d * kBlockTokens + slot] = q[d];
    scales[kBlockTokens + slot] = quantize_head(v, cache.head_dim, keys + n + slot * cache.head_dim);
  } else if (cache.type == kKvBf16) {
    uint16_t *keys = (uint16_t*)to, *values = keys + n + slot * cache.head_dim, q[kMaxHeadDim];
    round_head(k, cache.head_dim, q);
    for (int d = 0; d < cache.head_dim; d++) keys[d * kBlockTokens + run_slot(slot)] = q[d];
    if (run_slot(1) == 1) return round_head(v, cache.head_dim, values);
    round_head(v, cache.head_dim, q);
    int runs = cache.head_dim / kBlockTokens * kBlockTokens;
    for (int d = 0; d < cache.head_dim; d++) values[d < runs ? run_slot(d) : d] = q[d];
  } else {
    float* keys = (float*)to;
    for (int d = 0; d < cache.head_dim; d++) keys[d * kBlockTokens + slot] = k[d];
    memcpy(keys + n + slot * cache.head_dim, v, cache.head_dim * 4);
  }
}

using AttendFunction = void (*)(const float* const*, const int*, const Piece&, int, int, float*, float* const*, Softmax*);

template <class T>
struct Attend {
  template <int R>
  static constexpr AttendFunction with = attend_piece<R, T>;
};

// `vectors` <= kQueryTile query vectors over one piece of float (T = float), bf16 (uint16_t) or int8 keys and values.
template <class T>
DW_INLINE void attend(int vectors, const float* const* q, const int* visible, const Piece& piece, int head_dim, int value_dim,
                      float* scores, float* const* out, Softmax* softmax) {
  using A = Attend<T>;
  static constexpr AttendFunction table[] = {
      A::template with<1>, A::template with<2>, A::template with<3>,  A::template with<4>,  A::template with<5>,  A::template with<6>,
#if defined(DW_AVX512)
      A::template with<7>, A::template with<8>, A::template with<9>, A::template with<10>, A::template with<11>, A::template with<12>,
#endif
  };
  table[vectors - 1](q, visible, piece, head_dim, value_dim, scores, out, softmax);
}

}  // namespace DW_ISA
}  // namespace deepwell
