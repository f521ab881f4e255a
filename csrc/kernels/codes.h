// Attention over codes of 4 bits, as the factors of a memory have (kernels/factors.h), in integers.
//
// Block of 16 tokens: keys [rank / 8][16 tokens][4], values [rank / 16][2][16 columns][4] bytes. A byte of keys holds dimensions i (lower half) and
// i + 4 of a group of eight, a byte of values tokens i and i + 4 of one: a vector of bytes is 16 tokens, or columns, of four things that
// are summed.
//
// Queries are rounded to 8 bits with a scale each, softmax weights to 14 bits in two digits of 7. Sums of integers have the same bits in
// any order, so a query has the same result in any company.
//
// NOTE cost. `vpdpbusd` does four products where a multiply-add of floats does one, and codes need no conversion: two instructions open
// a vector of bytes for all queries. Rank 32 and 16 tokens: 8 dot products a query for scores and 16 for the two digits of
// the weighted sum, where floats take 64.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

#if defined(DW_AVX2)
constexpr int kDotSteps = 8;  // products of four that `acc4` holds: 8 * 2 * 15 * 127 < 2^15
#else
constexpr int kDotSteps = 4096;
#endif
constexpr int kDigitPeak = 128 * 127 + 127;  // of softmax weights: two digits of 0..127
constexpr int kDigitBytes = 2 * kPieceTokens;

// Where code `j` of token `slot` lies in a block; *high: in the upper half of its byte.
DW_INLINE size_t key_code(int j, int slot, int* high) {
  *high = j / 4 % 2;
  return (size_t)j / 8 * 64 + slot * 4 + j % 4;
}
DW_INLINE size_t value_code(int j, int slot, int key_rank, int* high) {
  *high = slot / 4 % 2;
  return (size_t)kBlockTokens / 2 * key_rank + j / 16 * 128 + slot / 8 * 64 + j % 16 * 4 + slot % 4;
}
DW_INLINE size_t code_block_bytes(int key_rank, int value_rank) { return (size_t)kBlockTokens / 2 * (key_rank + value_rank); }

// Bytes of scratch for a micro-tile: the rounded queries, the digits of the weights.
DW_INLINE size_t code_scratch_bytes(int key_rank) { return (size_t)kQueryTile * (key_rank + kDigitBytes); }

// x [rank] -> q: x ~ q * scale. Codes stand for 7.5 less than they are: returned is what their rounded product lacks for that.
static float round_query(const float* x, int rank, uint8_t* q, float* scale) {
  vf peak = vf{}, sum = vf{};
  for (int j = 0; j < rank; j += W) {
    peak = vmax(peak, vmax(load(x + j), -load(x + j)));
    sum += load(x + j);
  }
  float most = reduce_max(peak), inverse = most > kSmallestPeak ? 127.0f / most : 0.0f;
  *scale = most / 127.0f;
  vi total = vi{};
  for (int j = 0; j < rank; j += W) {
    vi rounded = round_to_int(load(x + j) * inverse);
    total += rounded;
    *(vb*)(q + j) = __builtin_convertvector(rounded, vb);
  }
  return 7.5f * (reduce_add(sum) - *scale * (float)reduce_addi(total));
}

// Scores of B blocks: scores[r][t] = scale[r] q[r] c[t]. `next` are blocks that are read later.
template <int R, int B>
DW_INLINE void scores_of_blocks(const uint8_t* q, const float* scale, const uint8_t* const* keys, const uint8_t* const* next, int rank,
                                float* scores) {
  for (int v = 0; v < kTokenVectors; v++) {
    vi sum[B][R] = {};
    for (int first = 0; first < rank; first += 4 * kDotSteps) {
      acc4 acc[B][R] = {};
      for (int d = first; d < min_of(rank, first + 4 * kDotSteps); d += 8) {
        vi low[B], high[B];
        for (int b = 0; b < B; b++) {
          if (v == 0) prefetch(next[b] + d * 8), prefetch(next[b] + (rank + d) * 8);  // its values, too
          vi pairs = load_bytes(keys[b] + v * W * 4 + d * 8);
          low[b] = low_nibbles(pairs), high[b] = high_nibbles(pairs);
        }
        for (int r = 0; r < R; r++)
          for (int b = 0; b < B; b++) acc[b][r] = dot4(acc[b][r], low[b], q + r * rank + d);
        for (int r = 0; r < R; r++)
          for (int b = 0; b < B; b++) acc[b][r] = dot4(acc[b][r], high[b], q + r * rank + d + 4);
      }
      for (int b = 0; b < B; b++)
        for (int r = 0; r < R; r++) sum[b][r] += finish4(acc[b][r]);
    }
    for (int b = 0; b < B; b++)
      for (int r = 0; r < R; r++)
        store(scores + r * kPieceTokens + b * kBlockTokens + v * W, to_float(sum[b][r]) * scale[r]);
  }
}

// A block takes less time than memory needs for the next one: meanwhile the piece `ahead` is asked for.
template <int R>
static void scores_of_codes(const uint8_t* q, const float* scale, const Piece& piece, const Piece& ahead, int blocks, int rank,
                            float* scores) {
  int b = 0;
  for (; b + 2 <= blocks; b += 2) scores_of_blocks<R, 2>(q, scale, piece.blocks + b, ahead.blocks + b, rank, scores + b * kBlockTokens);
  for (; b < blocks; b++) scores_of_blocks<R, 1>(q, scale, piece.blocks + b, ahead.blocks + b, rank, scores + b * kBlockTokens);
}

// e^x in units of 1 / kDigitPeak, for x <= 0, to 5e-6 of it before it is rounded: 2^n times a polynomial of degree 4.
DW_INLINE vi weight_of(vf x) {
  vf y = vmax(x * 1.44269504088896341f, set1(-16.0f));  // below, it is rounded to 0
  vi n = round_to_int(y);
  vf f = y - to_float(n);
  vf p = set1(9.676037356e-3f);
  p = fma(p, f, set1(5.592203513e-2f));
  p = fma(p, f, set1(2.402210683e-1f));
  p = fma(p, f, set1(6.931210160e-1f));
  p = fma(p, f, set1(1.0f));
  return round_to_int(p * (vf)((n + 127) << 23) * (float)kDigitPeak);
}

// Scores of one query -> digits of its weights, the upper ones of all tokens first.
static Softmax weigh(const float* scores, int tokens, uint8_t* digits) {
  vf top = load(scores);
  for (int t = W; t < tokens; t += W) top = vmax(top, load(scores + t));
  float max = reduce_max(top);
  vi total = vi{};
  for (int t = 0; t < tokens; t += W) {
    vi weight = weight_of(load(scores + t) - max);
    total += weight;
    *(vb*)(digits + t) = __builtin_convertvector(weight >> 7, vb);
    *(vb*)(digits + kPieceTokens + t) = __builtin_convertvector(weight & 127, vb);
  }
  return {max, (float)reduce_addi(total) * (1.0f / kDigitPeak)};
}

// Adds up one digit: sum[r] += weights[r] c over all tokens, for C vectors of columns that begin `at` bytes into a block.
template <int R, int C>
DW_INLINE void sum_digit(const uint8_t* weights, const Piece& piece, int blocks, const size_t* at, vi (*sum)[C]) {
  constexpr int kBlocks = kDotSteps / 4;  // a block takes four products
  for (int first = 0; first < blocks; first += kBlocks) {
    acc4 acc[R][C] = {};
    for (int b = first; b < min_of(blocks, first + kBlocks); b++)
      for (int half = 0; half < 2; half++) {
        const uint8_t* w = weights + b * kBlockTokens + half * 8;
        vi low[C], high[C];
        for (int c = 0; c < C; c++) {
          vi pairs = load_bytes(piece.blocks[b] + at[c] + half * 64);
          low[c] = low_nibbles(pairs), high[c] = high_nibbles(pairs);
        }
        for (int r = 0; r < R; r++)
          for (int c = 0; c < C; c++) acc[r][c] = dot4(acc[r][c], low[c], w + r * kDigitBytes);
        for (int r = 0; r < R; r++)
          for (int c = 0; c < C; c++) acc[r][c] = dot4(acc[r][c], high[c], w + r * kDigitBytes + 4);
      }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) sum[r][c] += finish4(acc[r][c]);
  }
}

// out[r][j] = sum over tokens of weight c, for the columns [j, j + C W).
template <int R, int C>
static void sum_of_codes(const uint8_t* digits, const Piece& piece, int blocks, int key_rank, int rank, int j, float* out) {
  size_t at[C];
  int high_half;
  for (int c = 0; c < C; c++) at[c] = value_code(j + c * W, 0, key_rank, &high_half);
  vi upper[R][C] = {}, lower[R][C] = {};
  sum_digit<R, C>(digits, piece, blocks, at, upper);
  sum_digit<R, C>(digits + kPieceTokens, piece, blocks, at, lower);
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++)
      store(out + r * rank + j + c * W, to_float((upper[r][c] << 7) + lower[r][c]) * (1.0f / kDigitPeak));
}

// R queries [key_rank] over all tokens of a piece: out [R][value_rank] = sum e^(s - max) c, unnormalised.
template <int R>
static void attend_piece_of_codes(const float* q, int tokens, const Piece& piece, const Piece& ahead, int key_rank, int value_rank,
                                  float* scores, uint8_t* bytes, float* out, Softmax* softmax) {
  int blocks = tokens / kBlockTokens;
  float scale[R], lacking[R];
  uint8_t* digits = bytes + (size_t)R * key_rank;
  for (int r = 0; r < R; r++) lacking[r] = round_query(q + r * key_rank, key_rank, bytes + r * key_rank, scale + r);
  scores_of_codes<R>(bytes, scale, piece, ahead, blocks, key_rank, scores);
  for (int r = 0; r < R; r++) {
    softmax[r] = weigh(scores + r * kPieceTokens, tokens, digits + r * kDigitBytes);
    softmax[r].max += lacking[r];
  }
  int j = 0;
  for (; j + 2 * W <= value_rank; j += 2 * W) sum_of_codes<R, 2>(digits, piece, blocks, key_rank, value_rank, j, out);
  for (; j < value_rank; j += W) sum_of_codes<R, 1>(digits, piece, blocks, key_rank, value_rank, j, out);
}

// `vectors` <= kQueryTile queries; `bytes` has code_scratch_bytes(key_rank); `ahead` is the piece of the thread's next item, with as many blocks.
DW_INLINE void attend_codes(int vectors, const float* q, int tokens, const Piece& piece, const Piece& ahead, int key_rank,
                            int value_rank, float* scores, uint8_t* bytes, float* out, Softmax* softmax) {
  using Attend = void (*)(const float*, int, const Piece&, const Piece&, int, int, float*, uint8_t*, float*, Softmax*);
  static constexpr Attend table[] = {
      attend_piece_of_codes<1>,  attend_piece_of_codes<2>,  attend_piece_of_codes<3>,  attend_piece_of_codes<4>,
      attend_piece_of_codes<5>,  attend_piece_of_codes<6>,
#if defined(DW_AVX512)
      attend_piece_of_codes<7>,  attend_piece_of_codes<8>,  attend_piece_of_codes<9>,  attend_piece_of_codes<10>,
      attend_piece_of_codes<11>, attend_piece_of_codes<12>,
#endif
  };
  table[vectors - 1](q, tokens, piece, ahead, key_rank, value_rank, scores, bytes, out, softmax);
}

}  // namespace DW_ISA
}  // namespace deepwell
