// Spells out on plain vector arithmetic what has no compiler operator, for tables without intrinsics of their own.
#pragma once
#include <stdint.h>

#include "kernels/isa.h"

namespace deepwell {
namespace DW_ISA {

DW_INLINE vf vmax(vf a, vf b) { return select(a > b, a, b); }
DW_INLINE vf vmin(vf a, vf b) { return select(a < b, a, b); }
// Adding 1.5 * 2^23 rounds to nearest even for |v| < 2^22; quantised values stay below 128.
DW_INLINE vi round_to_int(vf v) {
  const float magic = 12582912.0f;
  return (vi)(v + magic) - (vi)set1(magic);
}
DW_INLINE vi load_int8(const int8_t* p) { return __builtin_convertvector(*(const vb*)p, vi); }
DW_INLINE vf load_half(const uint16_t* p) {
  vi h = __builtin_convertvector(*(const vh_half*)p, vi);
  vi sign = (h & 0x8000) << 16;
  vi rest = h & 0x7fff;
  vi normal = (rest << 13) + (112 << 23);
  vf subnormal = __builtin_convertvector(rest, vf) * 5.9604644775390625e-8f;  // 2^-24
  vi special = (rest << 13) + (224 << 23);                                    // infinity, NaN
  vi bits = (vi)select(rest < 0x400, subnormal, (vf)normal);
  bits = (vi)select(rest >= 0x7c00, (vf)special, (vf)bits);
  return (vf)(bits | sign);
}

}  // namespace DW_ISA
}  // namespace deepwell
