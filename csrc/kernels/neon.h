// The operations of simd.h on AArch64, for processors that multiply bytes: SDOT (FEAT_DotProd) and, in a table of its own,
// SMMLA (FEAT_I8MM). Both take signed bytes on either side, so nothing is biased or corrected, and nibbles are never negative.
//
// Rounding is AVX2's and AVX512's: one in fma, to nearest even in round_to_int. BFDOT is left alone: its sums round otherwise.
#pragma once
#include <stdint.h>

#include "kernels/isa.h"

#if defined(DW_NEON)
namespace deepwell {
namespace DW_ISA {

DW_INLINE vf fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
DW_INLINE float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DW_INLINE vf vmax(vf a, vf b) { return select(a > b, a, b); }  // FMAX would keep a NaN that the other tables lose
DW_INLINE vf vmin(vf a, vf b) { return select(a < b, a, b); }
DW_INLINE vi round_to_int(vf v) { return (vi)vcvtnq_s32_f32((float32x4_t)v); }
DW_INLINE vf load_half(const uint16_t* p) { return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
DW_INLINE vi load_int8(const int8_t* p) { return __builtin_convertvector(*(const vb*)p, vi); }

DW_INLINE float reduce_add(vf v) {
  float32x2_t t = vadd_f32(vget_low_f32((float32x4_t)v), vget_high_f32((float32x4_t)v));
  return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
DW_INLINE float reduce_max(vf v) {
  float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
DW_INLINE int32_t reduce_addi(vi v) { return vaddvq_s32((int32x4_t)v); }

DW_INLINE vi dot8(vi acc, vi w, const uint8_t* x) {
  int32_t v;
  __builtin_memcpy(&v, x, 4);
  return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)w, vreinterpretq_s8_s32(vdupq_n_s32(v)));
}
DW_INLINE vi dot16(vi acc, vi a, vi b) {
  int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
  return acc + (vi)vpaddq_s32(low, vmull_high_s16((int16x8_t)a, (int16x8_t)b));
}

DW_INLINE void store_activations4(uint8_t* out, const vi* q) {
  for (int v = 0; v < 8; v += 4) {
    int16x8_t low = vcombine_s16(vmovn_s32((int32x4_t)q[v]), vmovn_s32((int32x4_t)q[v + 1]));
    int16x8_t high = vcombine_s16(vmovn_s32((int32x4_t)q[v + 2]), vmovn_s32((int32x4_t)q[v + 3]));
    vst1q_s8((int8_t*)out + v * 4, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
