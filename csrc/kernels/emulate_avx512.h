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

// AMX: eight tiles of this thread, 16 rows of 64 bytes at most, as their configuration says.
struct EmulatedTiles {
  uint16_t bytes[8];
  uint8_t rows[8];
  uint8_t data[8][16][64];
};
static thread_local EmulatedTiles emulated_tiles;

// `config`: the 64 bytes of LDTILECFG.
DW_INLINE void emulate_configure(const uint8_t* config) {
  memset(&emulated_tiles, 0, sizeof emulated_tiles);
  memcpy(emulated_tiles.bytes, config + 16, sizeof emulated_tiles.bytes);
  memcpy(emulated_tiles.rows, config + 48, sizeof emulated_tiles.rows);
}
DW_INLINE void emulate_load(int t, const uint8_t* from, size_t stride) {
  memset(emulated_tiles.data[t], 0, sizeof emulated_tiles.data[t]);
  for (int r = 0; r < emulated_tiles.rows[t]; r++) memcpy(emulated_tiles.data[t][r], from + r * stride, emulated_tiles.bytes[t]);
}
DW_INLINE void emulate_store(int t, uint8_t* to, size_t stride) {
  for (int r = 0; r < emulated_tiles.rows[t]; r++) memcpy(to + r * stride, emulated_tiles.data[t][r], emulated_tiles.bytes[t]);
}
// TDPBSSD, TDPBSUD, TDPBUSD: a row of `a` holds groups of four columns, as a row of `b` does for each output.
template <class A, class B>
static void emulate_dot8(int sum, int a, int b) {
  EmulatedTiles& t = emulated_tiles;
  for (int r = 0; r < t.rows[sum]; r++)
    for (int k = 0; k < t.bytes[a] / 4; k++)
      for (int c = 0; c < t.bytes[sum] / 4; c++) {
        int32_t s;
        memcpy(&s, &t.data[sum][r][4 * c], 4);
        for (int j = 0; j < 4; j++) s += (int32_t)(A)t.data[a][r][4 * k + j] * (int32_t)(B)t.data[b][k][4 * c + j];
        memcpy(&t.data[sum][r][4 * c], &s, 4);
      }
}
// TDPBF16PS: products of even and of odd columns each from zero, with one rounding, then both sums and what was there.
static void emulate_dot_bf16(int sum, int a, int b) {
  EmulatedTiles& t = emulated_tiles;
  for (int r = 0; r < t.rows[sum]; r++)
    for (int c = 0; c < t.bytes[sum] / 4; c++) {
      float s, of[2] = {};
      memcpy(&s, &t.data[sum][r][4 * c], 4);
      for (int k = 0; k < t.bytes[a] / 4; k++) {
        int32_t x, y;
        memcpy(&x, &t.data[a][r][4 * k], 4);
        memcpy(&y, &t.data[b][k][4 * c], 4);
        for (int odd = 0; odd < 2; odd++) of[odd] = flushed(__builtin_fmaf(bf16_half(x, odd), bf16_half(y, odd), of[odd]));
      }
      s = flushed(flushed(s) + flushed(of[0] + of[1]));
      memcpy(&t.data[sum][r][4 * c], &s, 4);
    }
}
#define DW_TILE_CONFIGURE(config) emulate_configure((const uint8_t*)(config))
#define DW_TILE_RELEASE() memset(&emulated_tiles, 0, sizeof emulated_tiles)
#define DW_TILE_ZERO(t) memset(emulated_tiles.data[t], 0, sizeof emulated_tiles.data[t])
#define DW_TILE_LOAD(t, from, stride) emulate_load(t, (const uint8_t*)(from), stride)
#define DW_TILE_STORE(t, to, stride) emulate_store(t, (uint8_t*)(to), stride)
#define DW_TILE_DOT8(sum, a, b) emulate_dot8<int8_t, int8_t>(sum, a, b)
#define DW_TILE_DOT8_SU(sum, a, b) emulate_dot8<int8_t, uint8_t>(sum, a, b)
#define DW_TILE_DOT8_US(sum, a, b) emulate_dot8<uint8_t, int8_t>(sum, a, b)
#define DW_TILE_DOT_BF16(sum, a, b) emulate_dot_bf16(sum, a, b)

}  // namespace DW_ISA
}  // namespace deepwell
