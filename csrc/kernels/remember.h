// Blocks that leave a window become a segment of factors (kernels/factors.h and mla_factors.h have its layout).
//
// Of the keys, with their rotation taken off, and of the values the mean is taken off; the basis spans the directions of largest energy
// of what is left. It is found by orthogonal iteration on the Gram matrix: a fixed number of steps from a fixed start, so the same
// pages give the same bits. Directions close to the cut converge slowly, and cost as little whichever side they end on.
//
// NOTE cost, counted: 512 tokens of 24 layers and 2 heads of 64 take 0.2 GMAC for the Gram matrices, and at rank 32 0.15 for the
// basis and 0.1 for the codes. One row of that model takes about as much.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/arena.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
#include "kernels/factors.h"
#include "kernels/mla.h"
#include "kernels/mla_factors.h"
#include "kernels/simd.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kBasisSteps = 12;
constexpr int kMaxFactoredDims = 4096;

static size_t factor_bytes(const Memory& m, const KVCache& c) {
  return c.latent_rank ? latent_factor_layout(m, latent_dims(c)).bytes : factor_layout(m, c.head_dim).bytes;
}

struct RememberSpace {  // of one thread
  float *x, *coded;     // [tokens][dims], [tokens][rank]
  float *gram, *basis, *next, *mean, *other;
};

static RememberSpace remember_space(const Memory& m, int dims, uint8_t* base, int threads, int tid, size_t* used) {
  Arena arena(base);
  RememberSpace mine{};
  int rank = max_of(m.key_rank, m.value_rank);
  for (int t = 0; t < threads; t++) {
    RememberSpace s;
    s.x = arena.take<float>((size_t)m.tokens * dims);
    s.coded = arena.take<float>((size_t)m.tokens * rank);
    s.gram = arena.take<float>((size_t)dims * dims);
    s.basis = arena.take<float>((size_t)rank * dims);
    s.next = arena.take<float>((size_t)rank * dims);
    s.mean = arena.take<float>(dims);
    s.other = arena.take<float>(dims);
    if (t == tid) mine = s;
  }
  *used = arena.used();
  return mine;
}

// Dimensions of what is factored, padded; of latents those of the wider part.
DW_INLINE int remembered_dims(const KVCache& c) {
  LatentDims d = latent_dims(c);
  return c.latent_rank ? max_of(d.rank, d.rope) : padded_dims(c.head_dim);
}

static size_t remember_bytes(const KVCache& c, const Memory& m, int threads) {
  size_t used = 0;
  remember_space(m, remembered_dims(c), nullptr, threads, 0, &used);
  return used;
}

// One block's keys or values as floats [16][dims]; the padding is left alone.
template <class T>
static void read_block(const uint8_t* block, int head_dim, int dims, bool values, float* to) {
  alignas(64) float run[kBlockTokens];
  const T* from = (const T*)block + (values ? head_dim * kBlockTokens : 0);
  int runs = head_dim / kBlockTokens * kBlockTokens;
  if (!values) {
    for (int d = 0; d < head_dim; d++) {
      load_runs(from + d * kBlockTokens, kBlockTokens, run);
      for (int t = 0; t < kBlockTokens; t++) to[t * dims + d] = run[t];
    }
    return;
  }
  for (int t = 0; t < kBlockTokens; t++) {
    load_runs(from + t * head_dim, runs, to + t * dims);
    for (int d = runs; d < head_dim; d++) to[t * dims + d] = widen(from[t * head_dim + d]);
  }
}

static void read_tokens(const KVCache& c, const Remember& r, int layer, int kv_head, bool values, int dims, float* x) {
  memset(x, 0, (size_t)r.memory.tokens * dims * sizeof(float));
  for (int b = 0; b * kBlockTokens < r.memory.tokens; b++) {
    const uint8_t* block = cache_head(c, layer, r.blocks[b], kv_head);
    float* to = x + (size_t)b * kBlockTokens * dims;
    if (c.type == kKvFp32) read_block<float>(block, c.head_dim, dims, values, to);
    else if (c.type == kKvBf16) read_block<uint16_t>(block, c.head_dim, dims, values, to);
    else read_block<int8_t>(block, c.head_dim, dims, values, to);
    if (c.type != kKvInt8) continue;
    auto scales = (const float*)(block + 2 * kBlockTokens * c.head_dim) + (values ? kBlockTokens : 0);
    for (int t = 0; t < kBlockTokens; t++) scale_row(to + t * dims, scales[t], c.head_dim);
  }
}

// Takes the rotation off keys that stand at r.first and behind it.
static void turn_back(const Remember& r, int head_dim, int dims, float* x, float* angle) {
  int half = head_dim / 2;
  float *cos = angle, *sin = angle + half;
  for (int t = 0; t < r.memory.tokens; t++) {
    size_t at = (size_t)(r.memory.first + t) * half;
    for (int i = 0; i < half; i++) cos[i] = r.cos[at + i] / r.cos[i], sin[i] = -r.sin[at + i] / r.cos[i];
    rope_head(x + (size_t)t * dims, cos, sin, head_dim);
  }
}

static void take_mean(float* x, int tokens, int dims, float* mean) {
  for (int d = 0; d < dims; d += W) {
    vf sum = vf{};
    for (int t = 0; t < tokens; t++) sum += load(x + (size_t)t * dims + d);
    sum = sum * (1.0f / (float)tokens);
    store(mean + d, sum);
    for (int t = 0; t < tokens; t++) store(x + (size_t)t * dims + d, load(x + (size_t)t * dims + d) - sum);
  }
}

// gram = x^T x, [dims][dims].
static void gram_of(const float* x, int tokens, int dims, float* gram) {
  for (int i = 0; i < dims; i += 4)
    for (int d = 0; d < dims; d += W) {
      vf sum[4] = {};
      for (int t = 0; t < tokens; t++) {
        const float* row = x + (size_t)t * dims;
        vf v = load(row + d);
        for (int k = 0; k < 4; k++) sum[k] = fma(set1(row[i + k]), v, sum[k]);
      }
      for (int k = 0; k < 4; k++) store(gram + (i + k) * dims + d, sum[k]);
    }
}

static float dot(const float* a, const float* b, int n) {
  vf sum = vf{};
  for (int i = 0; i < n; i += W) sum = fma(load(a + i), load(b + i), sum);
  return reduce_add(sum);
}

// Rows made orthonormal in order (Gram-Schmidt, twice over, as once leaves near-parallel rows oblique); a row that the ones before
// it span is zero.
static void orthonormalise(float* rows, int count, int dims) {
  for (int j = 0; j < count; j++) {
    float* row = rows + j * dims;
    float before = dot(row, row, dims);
    for (int pass = 0; pass < 2; pass++)
      for (int i = 0; i < j; i++) {
        const float* other = rows + i * dims;
        vf share = set1(-dot(row, other, dims));
        for (int d = 0; d < dims; d += W) store(row + d, fma(share, load(other + d), load(row + d)));
      }
    float length = dot(row, row, dims);
    float scale = length > 1e-12f * before && length > 1e-30f ? 1.0f / __builtin_sqrtf(length) : 0.0f;
    scale_row(row, scale, dims);
  }
}

// The `rank` directions of largest energy, rows [rank][dims].
static void find_basis(const float* gram, int rank, int dims, float* basis, float* next) {
  uint8_t taken[kMaxFactoredDims] = {};
  memset(basis, 0, (size_t)rank * dims * sizeof(float));
  for (int j = 0; j < rank; j++) {  // the start: the axes of largest energy
    int best = 0;
    float most = -1.0f;
    for (int d = 0; d < dims; d++)
      if (!taken[d] && gram[d * dims + d] > most) most = gram[d * dims + d], best = d;
    taken[best] = 1;
    basis[j * dims + best] = 1.0f;
  }
  for (int step = 0; step < kBasisSteps; step++) {
    for (int j = 0; j < rank; j++)
      for (int d = 0; d < dims; d += W) {
        vf sum = vf{};
        for (int i = 0; i < dims; i++) sum = fma(set1(basis[j * dims + i]), load(gram + i * dims + d), sum);
        store(next + j * dims + d, sum);
      }
    memcpy(basis, next, (size_t)rank * dims * sizeof(float));
    orthonormalise(basis, rank, dims);
  }
}

// coded = x basis^T [tokens][rank], each column scaled to -7.5..7.5; the scale goes into the basis.
static void code_tokens(const float* x, int tokens, int rank, int dims, float* basis, float* coded) {
  for (int t = 0; t < tokens; t++)
    for (int j = 0; j < rank; j++) coded[(size_t)t * rank + j] = dot(x + (size_t)t * dims, basis + j * dims, dims);
  for (int j = 0; j < rank; j++) {
    float peak = 0.0f;
    for (int t = 0; t < tokens; t++) {
      float a = __builtin_fabsf(coded[(size_t)t * rank + j]);
      peak = a > peak ? a : peak;
    }
    float inverse = peak > kSmallestPeak ? 7.5f / peak : 0.0f;
    for (int t = 0; t < tokens; t++) coded[(size_t)t * rank + j] *= inverse;
    scale_row(basis + j * dims, peak / 7.5f, dims);
  }
}

// Factors of s.x [tokens][dims]: codes in s.coded, the basis with their scales in s.basis, the mean in s.mean.
static void factor_tokens(int tokens, int rank, int dims, const RememberSpace& s) {
  take_mean(s.x, tokens, dims, s.mean);
  gram_of(s.x, tokens, dims, s.gram);
  find_basis(s.gram, rank, dims, s.basis, s.next);
  code_tokens(s.x, tokens, rank, dims, s.basis, s.coded);
}

// Code `j` of a token as key, as value. The lower half of a byte is written first.
DW_INLINE void put_code(uint8_t* pair, int high, float coded) {
  int code = round_to_int(set1(coded + 7.5f))[0];
  *pair = high ? (uint8_t)(*pair | code << 4) : (uint8_t)code;
}
DW_INLINE void put_key(uint8_t* block, int j, int slot, float coded) {
  int high;
  size_t at = key_code(j, slot, &high);
  put_code(block + at, high, coded);
}
DW_INLINE void put_value(uint8_t* block, int j, int slot, int key_rank, float coded) {
  int high;
  size_t at = value_code(j, slot, key_rank, &high);
  put_code(block + at, high, coded);
}

static void remember_head(const KVCache& c, const Remember& r, int layer, int kv_head, bool values, const RememberSpace& s) {
  const Memory& m = r.memory;
  int dims = padded_dims(c.head_dim), rank = values ? m.value_rank : m.key_rank;
  FactorLayout f = factor_layout(m, c.head_dim);
  uint8_t* head = r.segment + layer * m.layer_bytes + kv_head * m.head_bytes;
  read_tokens(c, r, layer, kv_head, values, dims, s.x);
  if (!values) turn_back(r, c.head_dim, dims, s.x, s.mean);
  factor_tokens(m.tokens, rank, dims, s);
  auto basis = (uint16_t*)(head + (values ? f.values : f.keys));
  for (int j = 0; j < rank; j++)
    for (int d = 0; d < dims; d++) {
      uint16_t narrow = to_bf16(s.basis[j * dims + d]);
      basis[values ? j * dims + d : d * rank + j] = narrow;
      s.mean[d] = fma1(-7.5f, widen(narrow), s.mean[d]);
    }
  memcpy(head + (values ? f.value_mean : f.key_mean), s.mean, dims * sizeof(float));
  for (int t = 0; t < m.tokens; t++) {
    uint8_t* to = head + t / kBlockTokens * f.block;
    int slot = t % kBlockTokens;
    for (int j = 0; j < rank; j++) {
      float coded = s.coded[(size_t)t * rank + j];
      if (values) put_value(to, j, slot, m.key_rank, coded);
      else put_key(to, j, slot, coded);
    }
  }
}

// Latents, or the rotated parts of their keys with the rotation taken off. Codes of latents are written twice,
// as keys and as values.
static void remember_latents(const KVCache& c, const Remember& r, int layer, bool rotated, const RememberSpace& s) {
  const Memory& m = r.memory;
  LatentDims d = latent_dims(c);
  LatentFactorLayout f = latent_factor_layout(m, d);
  int dims = rotated ? d.rope : d.rank, rank = rotated ? m.key_rank - m.value_rank : m.value_rank, first = rotated ? m.value_rank : 0;
  uint8_t* base = r.segment + layer * m.layer_bytes;
  for (int t = 0; t < m.tokens; t++) {
    float* x = s.x + (size_t)t * dims;
    read_latent(d, latent_block(c, layer, r.blocks[t / kBlockTokens]), t % kBlockTokens, rotated ? s.other : x, rotated ? x : s.other);
  }
  if (rotated) turn_back(r, c.latent_rope, dims, s.x, s.other);
  factor_tokens(m.tokens, rank, dims, s);
  auto basis = (uint16_t*)(base + (rotated ? f.pe : f.latent));
  for (int i = 0; i < rank * dims; i++) {
    basis[i] = to_bf16(s.basis[i]);
    s.mean[i % dims] = fma1(-7.5f, widen(basis[i]), s.mean[i % dims]);
  }
  memcpy(base + (rotated ? f.pe_mean : f.latent_mean), s.mean, dims * sizeof(float));
  for (int t = 0; t < m.tokens; t++) {
    uint8_t* to = base + t / kBlockTokens * f.block;
    int slot = t % kBlockTokens;
    for (int j = 0; j < rank; j++) {
      float coded = s.coded[(size_t)t * rank + j];
      put_key(to, first + j, slot, coded);
      if (!rotated) put_value(to, j, slot, m.key_rank, coded);
    }
  }
}

static void remember_blocks(const KVCache& c, const Remember& r, const Workspace& workspace, Team* team, int tid) {
  size_t used = 0;
  RememberSpace space = remember_space(r.memory, remembered_dims(c), workspace.data, team->size, tid, &used);
  int heads = c.latent_rank ? 1 : c.kv_heads, items = c.layers * heads * 2;
  for (int item; (item = team_next(team, 1)) < items;) {
    if (c.latent_rank) remember_latents(c, r, item / 2, item % 2, space);
    else remember_head(c, r, item / 2 / heads, item / 2 % heads, item % 2, space);
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
