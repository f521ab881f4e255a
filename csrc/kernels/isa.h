// Names the instruction set of a table and its vector types, on which everything in kernels/ stands.
//
// Arithmetic operators come from the compiler's vector types, so the generic table runs on SSE2 and NEON alike.
#pragma once
#include <stdint.h>
#include <string.h>

#if !defined(DW_ISA)
#error "DW_ISA names the table's namespace: CMakeLists.txt defines it for each instruction set"
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

// The AVX512 code path on emulated intrinsics, so that its logic is tested on machines without AVX512.
#if defined(DW_EMULATE_AVX512)
#define DW_AVX512 1
#define DW_BF16_DOT 1
#define DW_TILES 1
#elif defined(__AVX512VNNI__)
#define DW_AVX512 1
#if defined(__AVX512BF16__)
#define DW_BF16_DOT 1
#define DW_TILES 1  // AMX: every processor that has it multiplies pairs of bf16 too; a table of its own asks for it
#endif
#elif defined(__AVX2__)
#define DW_AVX2 1
#elif defined(__ARM_FEATURE_DOTPROD)
#define DW_NEON 1
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define DW_I8MM 1
#endif
#endif

#define DW_INLINE static inline __attribute__((always_inline))

namespace deepwell {
namespace DW_ISA {

#if defined(DW_AVX512)
constexpr int W = 16;
#elif defined(DW_AVX2)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4), may_alias));
typedef int32_t vi __attribute__((vector_size(W * 4), may_alias));
typedef float vfu __attribute__((vector_size(W * 4), may_alias, aligned(4)));
typedef int32_t viu __attribute__((vector_size(W * 4), may_alias, aligned(1)));
typedef int8_t vb __attribute__((vector_size(W), may_alias, aligned(1)));
typedef uint16_t vh_half __attribute__((vector_size(W * 2), may_alias, aligned(2)));

DW_INLINE vf load(const float* p) { return *(const vfu*)p; }
DW_INLINE void store(float* p, vf v) { *(vfu*)p = v; }
DW_INLINE vi load_bytes(const void* p) { return *(const viu*)p; }
DW_INLINE vf set1(float v) { return v - vf{}; }
DW_INLINE vi set1i(int32_t v) { return v - vi{}; }
DW_INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }
DW_INLINE vf select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

}  // namespace DW_ISA
}  // namespace deepwell
