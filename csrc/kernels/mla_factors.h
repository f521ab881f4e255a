// Latents that have left a window, kept as factors (kernels/factors.h has those of keys and values): of each segment and layer
//
//   latents ~ A B + mean   A: codes of 4 bits [tokens, value_rank], B: [value_rank, kv_lora_rank]
//   k_pe    ~ C D + mean   C: codes of 4 bits [tokens, key_rank - value_rank], D: [key_rank - value_rank, rope]
//
// One factor serves the keys and the values of all heads. k_pe is kept without its rotation and seen at the place of its piece. An
// absorbed query goes to the space of (A, C) once a piece, and what it attended to comes back from the space of A; in between attention
// is over codes (kernels/codes.h). A is stored twice for that, as keys and as values. Rows of a prompt attend to expanded keys and values: a piece's latents are put together again for them.
//
// NOTE cost. Rank 64, of 512 dimensions and of 64 rotated ones: 96 bytes of codes a token instead of 1152 (bf16); B, D and the means of
// 512 tokens add 148 bytes a token, 128 of them B.
//
// A layer in memory: blocks of 16 tokens { (A, C) as keys, A as values }, B bf16 [value_rank][rank], D bf16 [..][rope], means float [rank] and [rope]; rank is padded to 32 and rope to 16, with zeros.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
#include "kernels/factors.h"
#include "kernels/mla.h"
#include "kernels/simd.h"
#include "kernels/step.h"

namespace deepwell {
namespace DW_ISA {

struct LatentFactors {  // up to 256 tokens of one segment and layer
  Piece coded;
  const uint16_t *latent, *pe;  // B, D
  const float *latent_mean, *pe_mean;
  int tokens, place;
};

struct LatentFactorLayout {  // offsets in bytes inside a layer
  size_t block, latent, pe, latent_mean, pe_mean, bytes;
};

DW_INLINE LatentFactorLayout latent_factor_layout(const Memory& m, const LatentDims& d) {
  LatentFactorLayout f;
  f.block = code_block_bytes(m.key_rank, m.value_rank);
  f.latent = m.tokens / kBlockTokens * f.block;
  f.pe = f.latent + (size_t)m.value_rank * d.rank * 2;
  f.latent_mean = f.pe + (size_t)(m.key_rank - m.value_rank) * d.rope * 2;
  f.pe_mean = f.latent_mean + d.rank * sizeof(float);
  f.bytes = round_up(f.pe_mean + d.rope * sizeof(float), 64);
  return f;
}

// Piece `piece` of a memory, counted over its segments from the oldest.
static LatentFactors find_latent_factors(const Memory& m, int layer, const LatentDims& d, int piece) {
  int a_segment = pieces_of(m.tokens), segment = piece / a_segment, first = piece % a_segment * kPieceTokens;
  const uint8_t* base = m.segments[segment] + layer * m.layer_bytes;
  LatentFactorLayout f = latent_factor_layout(m, d);
  LatentFactors p;
  p.tokens = min_of(kPieceTokens, m.tokens - first);
  for (int b = 0; b * kBlockTokens < p.tokens; b++) p.coded.blocks[b] = base + (first / kBlockTokens + b) * f.block;
  p.latent = (const uint16_t*)(base + f.latent), p.pe = (const uint16_t*)(base + f.pe);
  p.latent_mean = (const float*)(base + f.latent_mean), p.pe_mean = (const float*)(base + f.pe_mean);
  p.place = factor_place(m, segment, first, p.tokens);
  return p;
}

// out[j] = x basis[j], rows of `dims`.
static void project_row(const float* x, const uint16_t* basis, int rows, int dims, float* out) {
  for (int j = 0; j < rows; j++) {
    vf sum = vf{};
    for (int d = 0; d < dims; d += W) sum = fma(load(x + d), load_bf16(basis + (size_t)j * dims + d), sum);
    out[j] = reduce_add(sum);
  }
}

// Absorbed queries, rotated and scaled, over one piece: latent[v] [d.rank], pe[v] [rope]. The record is as in `attend_latents`.
static void attend_latent_factors(const Model& m, const Memory& memory, const LatentFactors& p, const LatentDims& d, int rope,
                                  const float* const* latent, const float* const* pe, int vectors, const Layout& l, float* record) {
  float *turned = l.latent.factors, *projected = turned + kQueryTile * kMaxHeadDim, *coded = projected + kQueryTile * memory.key_rank;
  float *cos = coded + kQueryTile * memory.value_rank, *sin = cos + rope / 2;
  auto bytes = (uint8_t*)(cos + kMaxHeadDim);
  turn_to_place(m, p.place, rope / 2, cos, sin);
  int tiles = ceil_div(vectors, kQueryTile);
  for (int tile = 0, first = 0, n; tile < tiles; tile++, first += n) {
    n = ceil_div(vectors - first, tiles - tile);
    Softmax softmax[kQueryTile];
    for (int r = 0; r < n; r++) {
      float *to = turned + r * d.rope, *query = projected + r * memory.key_rank;
      memset(to, 0, d.rope * sizeof(float));
      memcpy(to, pe[first + r], rope * sizeof(float));
      rope_head(to, cos, sin, rope);
      project_row(latent[first + r], p.latent, memory.value_rank, d.rank, query);
      project_row(to, p.pe, memory.key_rank - memory.value_rank, d.rope, query + memory.value_rank);
    }
    attend_codes(n, projected, p.tokens, p.coded, p.coded, memory.key_rank, memory.value_rank, l.scratch, bytes, coded, softmax);
    for (int r = 0; r < n; r++) {
      int lane = first + r;
      record[lane] = softmax[r].max + dot_mean(latent[lane], p.latent_mean, d.rank) + dot_mean(turned + r * d.rope, p.pe_mean, d.rope);
      record[kLanes + lane] = softmax[r].sum;
    }
    times_basis(n, coded, memory.value_rank, p.latent, nullptr, d.rank, p.latent_mean, record + kLanes + first,
                record + 2 * kLanes + (size_t)first * d.rank);
  }
}

// One token's latent [d.rank] and k_pe [d.rope] at the place of its piece; `codes` [key_rank] and `angle` [rope] are scratch.
static void read_factored(const Model& m, const Memory& memory, const LatentFactors& p, const LatentDims& d, int rope, int token,
                          float* codes, float* angle, float* latent, float* pe) {
  const float one = 1.0f;
  for (int j = 0; j < memory.key_rank; j++) {
    int high;
    size_t at = key_code(j, token % kBlockTokens, &high);
    codes[j] = (float)(p.coded.blocks[token / kBlockTokens][at] >> 4 * high & 15);
  }
  times_basis(1, codes, memory.value_rank, p.latent, nullptr, d.rank, p.latent_mean, &one, latent);
  times_basis(1, codes + memory.value_rank, memory.key_rank - memory.value_rank, p.pe, nullptr, d.rope, p.pe_mean, &one, pe);
  int half = rope / 2;
  turn_to_place(m, p.place, half, angle, angle + half);
  for (int i = 0; i < half; i++) angle[half + i] = -angle[half + i];
  rope_head(pe, angle, angle + half, rope);
}

}  // namespace DW_ISA
}  // namespace deepwell
