// Included by simd.h inside its namespace: the AVX512 intrinsics the kernels use, spelled out lane by lane from Intel's
// description. Slow on purpose; a single rounding in fma, as in hardware.
#include "kernels/portable.h"

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
