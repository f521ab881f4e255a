// The few vector operations the kernels are written in, once per instruction set: dot products, conversions and fused
// multiply-adds are spelled out, arithmetic is the compiler's (isa.h).
#pragma once
#include <stdint.h>
#include <string.h>

#include "kernels/isa.h"

#if defined(DW_EMULATE_AVX512)
#include "kernels/emulate_avx512.h"
#elif defined(DW_NEON)
#include "kernels/neon.h"
#elif !defined(DW_AVX512) && !defined(DW_AVX2)
#include "kernels/portable.h"
#endif

namespace deepwell {
namespace DW_ISA {

#if defined(DW_EMULATE_AVX512) || defined(DW_NEON)
// emulate_avx512.h and neon.h have them all
#elif defined(DW_AVX512)
DW_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
DW_INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
DW_INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
DW_INLINE vi round_to_int(vf v) { return (vi)_mm512_cvtps_epi32((__m512)v); }
DW_INLINE vf load_half(const uint16_t* p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
DW_INLINE vi load_int8(const int8_t* p) { return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
DW_INLINE float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DW_INLINE vi dpbusd(vi acc, vi u, vi s) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)u, (__m512i)s); }
#if defined(DW_TILES)
// Tiles are named by number; a compiler need not know them.
#define DW_TILE_CONFIGURE(config) asm volatile("ldtilecfg %0" ::"m"(*(config)))
#define DW_TILE_RELEASE() asm volatile("tilerelease")
#define DW_TILE_ZERO(t) asm volatile("tilezero %%tmm" #t ::)
#define DW_TILE_LOAD(t, from, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"((const void*)(from)), "r"((size_t)(stride)) : "memory")
#define DW_TILE_STORE(t, to, stride) \
  asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"((void*)(to)), "r"((size_t)(stride)) : "memory")
#define DW_TILE_DOT8(sum, a, b) asm volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)
#define DW_TILE_DOT8_SU(sum, a, b) asm volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)
#define DW_TILE_DOT8_US(sum, a, b) asm volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)
#define DW_TILE_DOT_BF16(sum, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)
#endif
#if defined(DW_BF16_DOT)
DW_INLINE vf dpbf16(vf acc, vi a, vi b) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }
#endif
#elif defined(DW_AVX2)
DW_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
DW_INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
DW_INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
DW_INLINE vi round_to_int(vf v) { return (vi)_mm256_cvtps_epi32((__m256)v); }
DW_INLINE vf load_half(const uint16_t* p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
DW_INLINE vi load_int8(const int8_t* p) { return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
DW_INLINE float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
// Two roundings: software fma would cost a hundred times more. The integer sums stay exact.
DW_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
DW_INLINE float fma1(float a, float b, float c) { return a * b + c; }
#endif

DW_INLINE float half1(uint16_t h) {
  uint16_t lanes[W] = {h};
  return load_half(lanes)[0];
}

#if defined(DW_AVX512) && !defined(DW_EMULATE_AVX512)
// GCC 12 widens the two halves of a vector one by one.
DW_INLINE vf load_bf16(const uint16_t* p) {
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
#else
DW_INLINE vf load_bf16(const uint16_t* p) { return (vf)(__builtin_convertvector(*(const vh_half*)p, vi) << 16); }
#endif

DW_INLINE uint16_t to_bf16(float v) {  // nearest even; a NaN stays a NaN
  uint32_t u;
  memcpy(&u, &v, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 0x40);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

DW_INLINE void store_bf16(uint16_t* p, vf v) {  // to_bf16 of W values
  vi u = (vi)v;
  vi rounded = u + 0x7fff + ((u >> 16) & 1);  // no finite value overflows into the sign
  vi bits = (vi)select((u & 0x7fffffff) > 0x7f800000, (vf)(u | 0x400000), (vf)rounded) >> 16;
  *(vh_half*)p = __builtin_convertvector(bits, vh_half);
}

#if defined(DW_TILES)
#if defined(DW_EMULATE_AVX512)
// 32 values of 16 bits of two rows -> their pairs, in runs of four: 0 to 3, 8 to 11, 16, 24, and behind these 4, 12, 20, 28.
DW_INLINE void interleave32(const uint16_t* a, const uint16_t* b, int32_t* to) {
  for (int i = 0; i < 32; i++) to[i % 8 / 4 * 16 + i / 8 * 4 + i % 4] = (int32_t)((uint32_t)a[i] | (uint32_t)b[i] << 16);
}
// 16 values of 16 bits of two rows, one behind the other -> their pairs in order.
DW_INLINE void interleave16(const uint16_t* rows, int32_t* to) {
  for (int i = 0; i < 16; i++) to[i] = (int32_t)((uint32_t)rows[i] | (uint32_t)rows[16 + i] << 16);
}
// 64 pairs of bytes -> their first bytes and their second ones: eight of the first 32, eight of the others, and so on.
DW_INLINE void split64(const uint8_t* from, uint8_t* first, uint8_t* second) {
  for (int i = 0; i < 64; i++) {
    const int at = i % 32 / 8 * 16 + i / 32 * 8 + i % 8;
    first[at] = from[2 * i], second[at] = from[2 * i + 1];
  }
}
// 32 pairs, in order.
DW_INLINE void split32(const uint8_t* from, uint8_t* first, uint8_t* second) {
  for (int i = 0; i < 32; i++) first[i] = from[2 * i], second[i] = from[2 * i + 1];
}
// [16 rows][16 words] -> [word][row].
DW_INLINE void turn_words(const uint16_t* rows, int32_t* to) {
  for (int r = 0; r < 16; r++)
    for (int i = 0; i < 16; i++) memcpy(to + i * 16 + r, rows + r * 32 + 2 * i, 4);
}
DW_INLINE void narrow_bf16(uint16_t* to, vf v) {
  for (int i = 0; i < W; i++) to[i] = to_bf16(v[i]);
}
// Two vectors of such runs -> 32 values in order.
DW_INLINE void order_runs(const float* a, const float* b, float* to) {
  for (int i = 0; i < 32; i++) to[i] = (i % 8 / 4 ? b : a)[i / 8 * 4 + i % 4];
}
DW_INLINE void turn_block(const vf* w, uint16_t* to) {
  for (int lane = 0; lane < 16; lane++)
    for (int t = 0; t < 16; t++) to[lane * 32 + t] = to_bf16(w[t][lane]);
}
// The same, kept: pairs of two rows of 16, and of two of 32 in runs of four, which `order_pair_rows` undoes.
DW_INLINE vi pair_halves(const uint16_t* rows) {
  vi pairs;
  interleave16(rows, (int32_t*)&pairs);
  return pairs;
}
DW_INLINE void pair_rows(const uint16_t* a, const uint16_t* b, vi* pairs) { interleave32(a, b, (int32_t*)pairs); }
DW_INLINE void order_pair_rows(const vf* runs, float* to) { order_runs((const float*)runs, (const float*)(runs + 1), to); }
#else
DW_INLINE void interleave32(const uint16_t* a, const uint16_t* b, int32_t* to) {
  __m512i low = _mm512_loadu_si512(a), high = _mm512_loadu_si512(b);
  _mm512_storeu_si512(to, _mm512_unpacklo_epi16(low, high));
  _mm512_storeu_si512(to + 16, _mm512_unpackhi_epi16(low, high));
}
DW_INLINE void interleave16(const uint16_t* rows, int32_t* to) {
  __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)rows));
  __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(rows + 16)));
  _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
DW_INLINE __m512i split_lanes(const uint8_t* from) {  // of eight pairs the first bytes, then the second
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  return _mm512_shuffle_epi8(_mm512_loadu_si512(from), _mm512_broadcast_i32x4(order));
}
DW_INLINE void split64(const uint8_t* from, uint8_t* first, uint8_t* second) {
  __m512i low = split_lanes(from), high = split_lanes(from + 64);
  _mm512_storeu_si512(first, _mm512_unpacklo_epi64(low, high));
  _mm512_storeu_si512(second, _mm512_unpackhi_epi64(low, high));
}
DW_INLINE void split32(const uint8_t* from, uint8_t* first, uint8_t* second) {
  __m512i both = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), split_lanes(from));
  _mm256_storeu_si256((__m256i*)first, _mm512_castsi512_si256(both));
  _mm256_storeu_si256((__m256i*)second, _mm512_extracti64x4_epi64(both, 1));
}
DW_INLINE void turn_words(const uint16_t* rows, int32_t* to) {
  __m512i w[16], half[16];
  for (int i = 0; i < 16; i++) w[i] = _mm512_loadu_si512(rows + i * 32);
  for (int i = 0; i < 16; i += 2) {
    half[i] = _mm512_unpacklo_epi32(w[i], w[i + 1]);
    half[i + 1] = _mm512_unpackhi_epi32(w[i], w[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)  // word 4 * lane + j of four rows lies in w[i + j]
    for (int j = 0; j < 2; j++) {
      w[i + 2 * j] = _mm512_unpacklo_epi64(half[i + j], half[i + j + 2]);
      w[i + 2 * j + 1] = _mm512_unpackhi_epi64(half[i + j], half[i + j + 2]);
    }
  for (int j = 0; j < 4; j++) {
    __m512i a = _mm512_shuffle_i32x4(w[j], w[4 + j], 0x88), b = _mm512_shuffle_i32x4(w[8 + j], w[12 + j], 0x88);
    __m512i c = _mm512_shuffle_i32x4(w[j], w[4 + j], 0xdd), d = _mm512_shuffle_i32x4(w[8 + j], w[12 + j], 0xdd);
    _mm512_storeu_si512(to + j * 16, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(to + (8 + j) * 16, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(to + (4 + j) * 16, _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_storeu_si512(to + (12 + j) * 16, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}
DW_INLINE void narrow_bf16(uint16_t* to, vf v) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }

DW_INLINE vi pair_halves(const uint16_t* rows) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                         18, 2, 17, 1, 16, 0);
  return (vi)_mm512_permutexvar_epi16(order, _mm512_loadu_si512(rows));
}
DW_INLINE void pair_rows(const uint16_t* a, const uint16_t* b, vi* pairs) {
  __m512i low = _mm512_loadu_si512(a), high = _mm512_loadu_si512(b);
  pairs[0] = (vi)_mm512_unpacklo_epi16(low, high), pairs[1] = (vi)_mm512_unpackhi_epi16(low, high);
}
DW_INLINE void order_pair_rows(const vf* runs, float* to) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  _mm512_storeu_ps(to, _mm512_permutex2var_ps((__m512)runs[0], first, (__m512)runs[1]));
  _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps((__m512)runs[0], second, (__m512)runs[1]));
}
DW_INLINE void order_runs(const float* a, const float* b, float* to) {
  const vf runs[2] = {load(a), load(b)};
  order_pair_rows(runs, to);
}

// w [16 tokens][16 lanes] -> bf16, lane by lane 16 tokens: to[lane * 32 + token].
DW_INLINE void turn_block(const vf* w, uint16_t* to) {
  __m512i pair[8], half[8], lanes[8];
  for (int i = 0; i < 8; i++)  // a lane's pair of tokens is a word
    pair[i] = _mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)w[2 * i])),
                              _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)w[2 * i + 1])), 16));
  for (int i = 0; i < 8; i += 2) {
    half[i] = _mm512_unpacklo_epi32(pair[i], pair[i + 1]);
    half[i + 1] = _mm512_unpackhi_epi32(pair[i], pair[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {  // a quarter of a vector: four words of one lane
      lanes[i + 2 * j] = _mm512_unpacklo_epi64(half[i + j], half[i + j + 2]);
      lanes[i + 2 * j + 1] = _mm512_unpackhi_epi64(half[i + j], half[i + j + 2]);
    }
#define DW_QUARTER(q)                                                                                      \
  for (int r = 0; r < 4; r++) {                                                                            \
    _mm_storeu_si128((__m128i*)(to + (4 * q + r) * 32), _mm512_extracti32x4_epi32(lanes[r], q));           \
    _mm_storeu_si128((__m128i*)(to + (4 * q + r) * 32 + 8), _mm512_extracti32x4_epi32(lanes[4 + r], q));   \
  }
  DW_QUARTER(0) DW_QUARTER(1) DW_QUARTER(2) DW_QUARTER(3)
#undef DW_QUARTER
}
#endif
#endif

// Reductions halve the vector: lane i joins lane i + n / 2. A fixed tree, the same for every caller.
#if defined(DW_AVX512) && !defined(DW_EMULATE_AVX512)
DW_INLINE __m256 upper_half(vf v) { return _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)); }
DW_INLINE float reduce_add(vf v) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), upper_half(v));
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
DW_INLINE float reduce_max(vf v) {
  __m256 h = _mm256_max_ps(_mm512_castps512_ps256((__m512)v), upper_half(v));
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
DW_INLINE int32_t reduce_addi(vi v) {
  __m256i h = _mm256_add_epi32(_mm512_castsi512_si256((__m512i)v), _mm512_extracti64x4_epi64((__m512i)v, 1));
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  t = _mm_add_epi32(t, _mm_unpackhi_epi64(t, t));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 1)));
}
#elif defined(DW_AVX2)
DW_INLINE float reduce_add(vf v) {
  __m128 t = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
DW_INLINE float reduce_max(vf v) {
  __m128 t = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
DW_INLINE int32_t reduce_addi(vi v) {
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  t = _mm_add_epi32(t, _mm_unpackhi_epi64(t, t));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 1)));
}
#elif !defined(DW_NEON)
DW_INLINE float reduce_add(vf v) {
  float t[W];
  store(t, v);
  for (int n = W / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) t[i] += t[i + n];
  return t[0];
}
DW_INLINE float reduce_max(vf v) {
  float t[W];
  store(t, v);
  for (int n = W / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) t[i] = t[i] > t[i + n] ? t[i] : t[i + n];
  return t[0];
}
DW_INLINE int32_t reduce_addi(vi v) {
  int32_t t = 0;
  for (int i = 0; i < W; i++) t += v[i];
  return t;
}
#endif

// v, and 0 where x < limit.
DW_INLINE vf zero_below(vf x, float limit, vf v) {
#if defined(DW_AVX512) && !defined(DW_EMULATE_AVX512)
  return (vf)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)set1(limit), _CMP_NLT_UQ), (__m512)v);
#else
  return select(x < limit, vf{}, v);
#endif
}

constexpr float kLeastExp = -87.33654f;

// e^x to 2 ulp for x <= 88; 0 below -87.3 (also for -infinity). Cody-Waite reduction, degree-5 polynomial (Cephes expf).
DW_INLINE vf vexp(vf x) {
  const vf given = x;
  x = vmin(set1(88.0f), vmax(set1(kLeastExp), x));  // in this order a NaN stays one
  vi n = round_to_int(x * 1.44269504088896341f);
  vf nf = to_float(n);
  vf r = fma(nf, set1(-0.693359375f), x);
  r = fma(nf, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  vf scale = (vf)((n + 127) << 23);
  return zero_below(given, kLeastExp, p * scale);
}

// 2^x for x <= 0 to 5e-5, far below what rounding a weight to bf16 costs; 2^-120 below -120.
DW_INLINE vf power_of_two(vf x) {
  x = vmax(x, set1(-120.0f));
  vi n = round_to_int(x);
  vf r = x - to_float(n);
  vf p = fma(set1(9.6181291e-3f), r, set1(5.5504109e-2f));
  p = fma(p, r, set1(2.4022651e-1f));
  p = fma(p, r, set1(6.9314718e-1f));
  p = fma(p, r, set1(1.0f));
  return (vf)((vi)p + (n << 23));
}

constexpr float kLog2e = 1.44269504f;

DW_INLINE vf silu(vf x) { return x / (vexp(-x) + 1.0f); }

// ---- integer dot products -------------------------------------------------------------------------------------
// A weight vector holds, for W rows, 4 consecutive columns as bytes; an activation holds the same 4 columns of one row.
// int8: signed weights. int4: unsigned nibbles already widened to bytes. Accumulators of one group of columns:
//   int8: 64 columns in int32 lanes; int4: 32 columns in `acc4`, turned into int32 lanes by `finish4`.

#if defined(DW_AVX512)

// vpdpbusd wants unsigned x signed: the weights are flipped to w + 128 (one xor shared by all rows of a tile) and the accumulator
// starts at -128 * sum(x).
constexpr int kActivationBytes8 = 4;  // bytes of 4 columns of one activation row
typedef vi weight8;
typedef vi acc4;
DW_INLINE weight8 open8(vi w) { return w ^ set1i((int32_t)0x80808080); }
DW_INLINE vi correction8(vi q) { return q; }
DW_INLINE vi start8(int32_t sum_x) { return set1i(-128 * sum_x); }
DW_INLINE vi dot8(vi acc, weight8 w, const uint8_t* x) {
  int32_t v;
  memcpy(&v, x, 4);
  return dpbusd(acc, w, set1i(v));
}
DW_INLINE acc4 dot4(acc4 acc, vi w, const uint8_t* x) {
  int32_t v;
  memcpy(&v, x, 4);
  return dpbusd(acc, w, set1i(v));
}
DW_INLINE vi finish4(acc4 acc) { return acc; }

#elif defined(DW_AVX2)

// vpmaddubsw(|x|, w ^ (x < 0)) cannot saturate: 2 * 127 * 128 < 2^15. An activation carries |x| and the mask of its negative columns, 8
// bytes for 4 columns. Flipped bits are -w - 1, so a negative column falls short by |x|: the accumulator starts at the sum of those.
// vpsignb would need no such start, but shares the multiplier's two pipes, where vpxor may take any of four.
// int4 stays in 16-bit lanes for the whole group: 8 steps * 2 * 15 * 127 = 30480 < 2^15; half the work of int8.
constexpr int kActivationBytes8 = 8;
typedef vi weight8;
typedef __m256i acc4;
// Pins an accumulator to a register at this point: GCC would hoist all products of a step and spill them.
#define DW_PIN(v) asm("" : "+x"(v))
DW_INLINE weight8 open8(vi w) { return w; }
DW_INLINE vi correction8(vi q) { return -q & (q >> 31); }
DW_INLINE vi start8(int32_t correction) { return set1i(correction); }
DW_INLINE vi dot8(vi acc, weight8 w, const uint8_t* x) {
  __m256i ax = _mm256_castps_si256(_mm256_broadcast_ss((const float*)x));
  __m256i negative = _mm256_castps_si256(_mm256_broadcast_ss((const float*)(x + 4)));
  __m256i pairs = _mm256_maddubs_epi16(ax, _mm256_xor_si256((__m256i)w, negative));
  __m256i sum = _mm256_add_epi32((__m256i)acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  DW_PIN(sum);
  return (vi)sum;
}
DW_INLINE acc4 dot4(acc4 acc, vi w, const uint8_t* x) {
  __m256i xb = _mm256_castps_si256(_mm256_broadcast_ss((const float*)x));
  acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16((__m256i)w, xb));
  DW_PIN(acc);
  return acc;
}
DW_INLINE vi finish4(acc4 acc) { return (vi)_mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }

#else

constexpr int kActivationBytes8 = 4;
typedef vi weight8;
typedef vi acc4;
DW_INLINE weight8 open8(vi w) { return w; }
DW_INLINE vi correction8(vi) { return vi{}; }
DW_INLINE vi start8(int32_t) { return vi{}; }
#if !defined(DW_NEON)
DW_INLINE vi dot8(vi acc, weight8 w, const uint8_t* x) {
  const int8_t* s = (const int8_t*)x;
  return acc + ((w << 24) >> 24) * s[0] + ((w << 16) >> 24) * s[1] + ((w << 8) >> 24) * s[2] + (w >> 24) * s[3];
}
#endif
DW_INLINE acc4 dot4(acc4 acc, vi w, const uint8_t* x) { return dot8(acc, w, x); }  // nibbles are never negative
DW_INLINE vi finish4(acc4 acc) { return acc; }

#endif

DW_INLINE vi low_nibbles(vi w) { return w & 0x0f0f0f0f; }
DW_INLINE vi high_nibbles(vi w) { return (vi)(w >> 4) & 0x0f0f0f0f; }

// 32 quantised columns -> activation bytes, in the layout dot4 reads (plain bytes) and the one dot8 reads.
#if defined(DW_AVX2)
DW_INLINE __m256i pack32(const vi* q) {
  __m256i low = _mm256_packs_epi32((__m256i)q[0], (__m256i)q[1]), high = _mm256_packs_epi32((__m256i)q[2], (__m256i)q[3]);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
DW_INLINE void store_activations4(uint8_t* out, const vi* q) { _mm256_storeu_si256((__m256i*)out, pack32(q)); }
DW_INLINE void store_activations8(uint8_t* out, const vi* q) {
  __m256i x = pack32(q), ax = _mm256_abs_epi8(x), negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), x);
  __m256i low = _mm256_unpacklo_epi32(ax, negative), high = _mm256_unpackhi_epi32(ax, negative);
  _mm256_storeu_si256((__m256i*)out, _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256((__m256i*)(out + 32), _mm256_permute2x128_si256(low, high, 0x31));
}
#elif defined(DW_AVX512) && !defined(DW_EMULATE_AVX512)
// Byte by byte, as GCC 12 has it, rounding took 4 cycles a value.
DW_INLINE void store_activations4(uint8_t* out, const vi* q) {
  for (int v = 0; v < 2; v++) _mm_storeu_si128((__m128i*)out + v, _mm512_cvtepi32_epi8((__m512i)q[v]));
}
DW_INLINE void store_activations8(uint8_t* out, const vi* q) { store_activations4(out, q); }
#else
#if !defined(DW_NEON)
DW_INLINE void store_activations4(uint8_t* out, const vi* q) {
  for (int v = 0; v < 32 / W; v++)
    for (int i = 0; i < W; i++) out[v * W + i] = (uint8_t)q[v][i];
}
#endif
DW_INLINE void store_activations8(uint8_t* out, const vi* q) { store_activations4(out, q); }
#endif

}  // namespace DW_ISA
}  // namespace deepwell
