// Spells out, lane by lane from Intel's description, the AVX512 intrinsics the kernels use. Slow on purpose; a single rounding in
// fma, as in hardware.
#pragma once
#include <stdint.h>
#include <string.h>

#include "kernels/isa.h"
#include "kernels/portable.h"

namespace deepwell {
namespace DW_ISA {

DW_INLINE vf fma(vf a, vf b, vf c) {
  for (int i = 0; i < W; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
DW_INLINE float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// VPDPBUSD: four products of unsigned and signed bytes, summed into an int32 lane without saturation.
DW_INLINE vi dpbusd(vi acc, vi u, vi s) {
  for (int i = 0; i < W; i++)
    for (int j = 0; j < 4; j++)
      acc[i] += (int32_t)(uint8_t)((uint32_t)u[i] >> (8 * j)) * (int32_t)(int8_t)((uint32_t)s[i] >> (8 * j));
  return acc;
}

// VDPBF16PS: of each pair the odd elements first, each product added with one rounding; subnormals count as zero, going in and
// coming out.
DW_INLINE float flushed(float v) { return __builtin_fabsf(v) < 1.17549435e-38f ? __builtin_copysignf(0.0f, v) : v; }
DW_INLINE float bf16_half(int32_t pair, int odd) {
  uint32_t bits = odd ? (uint32_t)pair & 0xffff0000u : (uint32_t)pair << 16;
  float v;
  memcpy(&v, &bits, 4);
  return flushed(v);
}
DW_INLINE vf dpbf16(vf acc, vi a, vi b) {
  for (int i = 0; i < W; i++)
    for (int odd = 1; odd >= 0; odd--)
      acc[i] = flushed(__builtin_fmaf(bf16_half(a[i], odd), bf16_half(b[i], odd), flushed(acc[i])));
  return acc;
}

}  // namespace DW_ISA
}  // namespace deepwell
