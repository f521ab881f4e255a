// Blocks of the cache whose keys are turned back, as if their tokens stood further down: a window that slides.
//
// A rotation by an angle undoes one of the same angle, so nothing is computed again. All tokens of a call turn by the same angle.
// Values and latents have no place and are copied. Narrow keys are widened, turned and rounded once more, as `write_kv` rounds.
//
// NOTE cost. A slide of smollm2's window of 1024 moves 512 tokens of 30 layers: 24 MB of float keys, about one step of one row,
// once in 512 tokens. Lanes run over the 16 tokens of a block, whose keys lie together.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/mla.h"
#include "kernels/simd.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

// x: [head_dim][16 tokens] turned in place; pairs (i, i + half).
static void turn_keys(float* x, int half, const float* cos, const float* sin) {
  for (int i = 0; i < half; i++)
    for (int t = 0; t < kBlockTokens; t += W) {
      float *first = x + i * kBlockTokens + t, *second = x + (half + i) * kBlockTokens + t;
      vf a = load(first), b = load(second), c = set1(cos[i]), s = set1(sin[i]);
      store(first, a * c - b * s);
      store(second, b * c + a * s);
    }
}

template <class T>
static void shift_plain(const T* from, T* to, int head_dim, const BlockShift& s) {
  alignas(64) float x[kMaxHeadDim * kBlockTokens];
  int n = head_dim * kBlockTokens;
  load_runs(from, n, x);
  turn_keys(x, head_dim / 2, s.cos, s.sin);
  store_runs(to, x, n);
  if (to != from) memcpy(to + n, from + n, n * sizeof(T));
}

// int8 keys have one scale a token, which is found anew.
static void shift_int8(const uint8_t* from, uint8_t* to, int head_dim, const BlockShift& s) {
  alignas(64) float x[kMaxHeadDim * kBlockTokens];
  int n = head_dim * kBlockTokens;
  auto scales = (const float*)(from + 2 * n);
  auto new_scales = (float*)(to + 2 * n);
  load_runs((const int8_t*)from, n, x);
  for (int i = 0; i < n; i += W) store(x + i, load(x + i) * load(scales + i % kBlockTokens));
  turn_keys(x, head_dim / 2, s.cos, s.sin);
  if (to != from) {
    memcpy(to + n, from + n, n);
    memcpy(new_scales + kBlockTokens, scales + kBlockTokens, kBlockTokens * sizeof(float));
  }
  for (int t = 0; t < kBlockTokens; t += W) {
    vf peak = vf{};
    for (int d = 0; d < head_dim; d++) {
      vf key = load(x + d * kBlockTokens + t);
      peak = vmax(peak, vmax(key, -key));
    }
    vf inverse = vf{};
    for (int i = 0; i < W; i++) inverse[i] = peak[i] > kSmallestPeak ? 127.0f / peak[i] : 0.0f;
    for (int d = 0; d < head_dim; d++) {
      vi rounded = round_to_int(load(x + d * kBlockTokens + t) * inverse);
      for (int i = 0; i < W; i++) to[d * kBlockTokens + t + i] = (uint8_t)(int8_t)rounded[i];
    }
    store(new_scales + t, peak / 127.0f);
  }
}

// The first `rope` of `stride` elements of 16 tokens, turned in place.
template <class T>
static void turn_parts(T* at, int stride, int rope, const BlockShift& s) {
  alignas(64) float x[kMaxHeadDim + kBlockTokens];
  int padded = round_up(rope, kBlockTokens);
  for (int t = 0; t < kBlockTokens; t++) {
    load_runs(at + (size_t)t * stride, padded, x);
    rope_head(x, s.cos, s.sin, rope);
    store_runs(at + (size_t)t * stride, x, padded);
  }
}

static void shift_latents(const KVCache& c, const uint8_t* from, uint8_t* to, const BlockShift& s) {
  LatentDims d = latent_dims(c);
  if (to != from) memcpy(to, from, d.block_bytes);
  if (d.type == kKvFp32) {
    turn_parts((float*)(to + d.rope_bytes), d.rope_stride, c.latent_rope, s);
    if (d.index) turn_parts((float*)(to + d.index_bytes), d.index, c.latent_rope, s);
  } else {
    turn_parts((uint16_t*)(to + d.rope_bytes), d.rope_stride, c.latent_rope, s);
    if (d.index) turn_parts((uint16_t*)(to + d.index_bytes), d.index, c.latent_rope, s);
  }
}

static void shift_blocks(const KVCache& c, const BlockShift& s, Team* team, int) {
  int heads = max_of(c.kv_heads, 1), items = c.layers * s.count * heads;
  for (int item; (item = team_next(team, 1)) < items;) {
    int head = item % heads, block = item / heads % s.count, layer = item / heads / s.count;
    size_t at = layer * c.layer_bytes + head * c.head_bytes;
    const uint8_t* from = c.data + at + s.sources[block] * c.block_bytes;
    uint8_t* to = c.data + at + s.targets[block] * c.block_bytes;
    if (c.latent_rank) shift_latents(c, from, to, s);
    else if (c.type == kKvInt8) shift_int8(from, to, c.head_dim, s);
    else if (c.type == kKvBf16) shift_plain((const uint16_t*)from, (uint16_t*)to, c.head_dim, s);
    else shift_plain((const float*)from, (float*)to, c.head_dim, s);
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
