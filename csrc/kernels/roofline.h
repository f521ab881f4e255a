// Loops that do nothing but read memory, or nothing but multiply in registers: what this machine can reach at best with the
// instructions of this table.
#pragma once
#include "common.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

#define DW_KEEP(v) asm volatile("" : "+x"(v))

static double read_memory(const Roofline& r, int tid, int threads) {
  size_t share = r.memory_bytes / threads / 4096 * 4096;
  const uint8_t* p = r.memory + tid * share;
  vi sum[4] = {};
  for (size_t i = 0; i + 4 * sizeof(vi) <= share; i += 4 * sizeof(vi)) {
    for (size_t j = 0; j < 4 * sizeof(vi); j += 64) prefetch(p + i + j + 4096);
    for (int j = 0; j < 4; j++) sum[j] += load_bytes(p + i + j * sizeof(vi));
  }
  for (int j = 0; j < 4; j++) asm volatile("" ::"m"(sum[j]));
  return (double)share;
}

#if defined(__AVX2__)
constexpr int kChains = 12;
constexpr long kRounds = 1 << 20;

static double multiply_fp32() {
  vf acc[kChains] = {}, x = set1(1e-3f);
  for (long n = 0; n < kRounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
      acc[i] = fma(x, x, acc[i]);
#if defined(__AVX512F__)
      asm volatile("" : "+v"(acc[i]));
#else
      DW_KEEP(acc[i]);
#endif
    }
  for (int i = 0; i < kChains; i++) asm volatile("" ::"m"(acc[i]));
  return (double)kRounds * kChains * W;
}

#if defined(__AVX512VNNI__)
static double multiply_int8() {
  vi acc[kChains] = {}, w = set1i(0x02020202), x = set1i(0x03030303);
  for (long n = 0; n < kRounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
      acc[i] = (vi)_mm512_dpbusd_epi32((__m512i)acc[i], (__m512i)w, (__m512i)x);
      asm volatile("" : "+v"(acc[i]));
    }
  for (int i = 0; i < kChains; i++) asm volatile("" ::"m"(acc[i]));
  return (double)kRounds * kChains * 64;
}
static double multiply_int4() { return multiply_int8(); }
#else
// vpmaddubsw + vpmaddwd + vpaddd: exact int8 products in 32-bit sums.
static double multiply_int8() {
  __m256i acc[8] = {}, w = _mm256_set1_epi8(2), x = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  for (long n = 0; n < kRounds; n++)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      __m256i pairs = _mm256_maddubs_epi16(w, x);
      DW_KEEP(pairs);
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
      DW_KEEP(acc[i]);
    }
  for (int i = 0; i < 8; i++) asm volatile("" ::"m"(acc[i]));
  return (double)kRounds * 8 * 32;
}
// vpmaddubsw + vpaddw: 4-bit weights leave room for 16-bit sums.
static double multiply_int4() {
  __m256i acc[8] = {}, w = _mm256_set1_epi8(2), x = _mm256_set1_epi8(3);
  for (long n = 0; n < kRounds; n++)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      __m256i pairs = _mm256_maddubs_epi16(w, x);
      DW_KEEP(pairs);
      acc[i] = _mm256_add_epi16(acc[i], pairs);
      DW_KEEP(acc[i]);
    }
  for (int i = 0; i < 8; i++) asm volatile("" ::"m"(acc[i]));
  return (double)kRounds * 8 * 32;
}
#endif

static double roofline(int kind, const Roofline& r, int tid, int threads) {
  switch (kind) {
    case kRoofMemory: return read_memory(r, tid, threads);
    case kRoofFp32: return multiply_fp32();
    case kRoofInt8: return multiply_int8();
    default: return multiply_int4();
  }
}
#else
static double roofline(int kind, const Roofline& r, int tid, int threads) {
  return kind == kRoofMemory ? read_memory(r, tid, threads) : 0.0;  // no portable register loop
}
#endif

}  // namespace DW_ISA
}  // namespace deepwell
