// Loops that do nothing but read memory, or nothing but multiply in registers: what this machine can reach at best with the
// instructions of this table. And its clock: a manual's products a cycle are then a rate, which the loops are held against.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "common.h"
#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace deepwell {
namespace DW_ISA {

static double read_memory(const Roofline& r, int tid, int threads) {
  size_t share = r.memory_bytes / threads / 4096 * 4096;
  const uint8_t* p = r.memory + tid * share;
  vi sum[4] = {};
  for (size_t i = 0; i + 4 * sizeof(vi) <= share; i += 4 * sizeof(vi)) {
    for (size_t j = 0; j < 4 * sizeof(vi); j += 64) prefetch_later(p + i + j + 1024);
    for (int j = 0; j < 4; j++) sum[j] += load_bytes(p + i + j * sizeof(vi));
  }
  for (int j = 0; j < 4; j++) asm volatile("" ::"m"(sum[j]));
  return (double)share;
}

// Written in assembly: a compiler's copies or its reordering would lower the roof that everything else is held against.
#if defined(__x86_64__) && (defined(__AVX512VNNI__) || defined(__AVX2__))
constexpr long kRounds = 1 << 20;

#if defined(__AVX512VNNI__)
#define DW_FMA(i) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#define DW_DOT(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #i "\n\t"
// Twelve sums: two a cycle, each ready after at most six.
#define DW_SEQUENCE(I) I(0) I(1) I(2) I(3) I(4) I(5) I(6) I(7) I(8) I(9) I(10) I(11)
constexpr int kSums = 12;
#define DW_BF16(i) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#define DW_INT8(i) DW_DOT(i)
#define DW_INT4(i) DW_DOT(i)
#else
#define DW_FMA(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n\t"
// Exact int8 products in 32-bit sums take three instructions; 4-bit weights leave room for 16-bit sums.
#define DW_INT8(i) "vpmaddubsw %%ymm14, %%ymm15, %%ymm8\n\tvpmaddwd %%ymm13, %%ymm8, %%ymm9\n\tvpaddd %%ymm9, %%ymm" #i ", %%ymm" #i "\n\t"
#define DW_INT4(i) "vpmaddubsw %%ymm14, %%ymm15, %%ymm8\n\tvpaddw %%ymm8, %%ymm" #i ", %%ymm" #i "\n\t"
#define DW_SEQUENCE(I) I(0) I(1) I(2) I(3) I(4) I(5) I(6) I(7) I(10) I(11)
constexpr int kSums = 10;
#endif

#define DW_LOOP(I)                                                                                             \
  for (long n = 0; n < kRounds; n++)                                                                           \
    asm volatile(DW_SEQUENCE(I)::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11")

// Cycles: a chain of multiplications, each ready after three on every x86 processor with AVX2.
static double count_cycles() {
  uint64_t x = 3;
  for (long n = 0; n < kRounds; n++)
    asm volatile("imul %0, %0\n\timul %0, %0\n\timul %0, %0\n\timul %0, %0" : "+r"(x));
  return (double)kRounds * 4 * 3;
}

static double roofline(int kind, const Roofline& r, int tid, int threads) {
  asm volatile("vpxor %%xmm13, %%xmm13, %%xmm13\n\tvpxor %%xmm14, %%xmm14, %%xmm14\n\tvpxor %%xmm15, %%xmm15, %%xmm15" :::
                   "xmm13", "xmm14", "xmm15");  // zeros: no denormals
  switch (kind) {
    case kRoofMemory: return read_memory(r, tid, threads);
    case kRoofClock: return count_cycles();
#if defined(DW_BF16_DOT)
    case kRoofBf16: DW_LOOP(DW_BF16); return (double)kRounds * kSums * 2 * W;
#else
    case kRoofBf16:
#endif
    case kRoofFp32: DW_LOOP(DW_FMA); return (double)kRounds * kSums * W;
    case kRoofInt8: DW_LOOP(DW_INT8); return (double)kRounds * kSums * 4 * W;
    default: DW_LOOP(DW_INT4); return (double)kRounds * kSums * 4 * W;
  }
}
#elif defined(DW_NEON)
#define DW_FMA(i) "fmla v" #i ".4s, v30.4s, v31.4s\n\t"
#if defined(DW_I8MM)
#define DW_DOT(i) "smmla v" #i ".4s, v30.16b, v31.16b\n\t"
constexpr int kDotProducts = 32;  // of an instruction
#else
#define DW_DOT(i) "sdot v" #i ".4s, v30.16b, v31.16b\n\t"
constexpr int kDotProducts = 16;
#endif
// Sixteen sums: four pipes that take four cycles each.
#define DW_SEQUENCE(I) I(0) I(1) I(2) I(3) I(4) I(5) I(6) I(7) I(16) I(17) I(18) I(19) I(20) I(21) I(22) I(23)
#define DW_LOOP(I)                                                                                                           \
  for (long n = 0; n < kRounds; n++)                                                                                         \
    asm volatile(DW_SEQUENCE(I)::: "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", \
                 "v22", "v23")
constexpr long kRounds = 1 << 18;

static double roofline(int kind, const Roofline& r, int tid, int threads) {
  if (kind == kRoofMemory) return read_memory(r, tid, threads);
  if (kind == kRoofClock) return 0.0;  // no instruction takes the same cycles on all of them
  asm volatile("movi v30.4s, #0\n\tmovi v31.4s, #0" ::: "v30", "v31");
  if (kind == kRoofInt8 || kind == kRoofInt4) {
    DW_LOOP(DW_DOT);
    return (double)kRounds * 16 * kDotProducts;
  }
  DW_LOOP(DW_FMA);
  return (double)kRounds * 16 * W;
}
#else
static double roofline(int kind, const Roofline& r, int tid, int threads) {
  return kind == kRoofMemory ? read_memory(r, tid, threads) : 0.0;  // no portable register loop
}
#endif

}  // namespace DW_ISA
}  // namespace deepwell
