// Weights and products spelled out in plain loops: what the tests of the kernel tables hold them against.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"
#include "integers.h"

namespace deepwell::tests {

// Xorshift (Marsaglia 2003): the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  int integer(int low, int high) {
    return low + static_cast<int>((next() >> 20) % static_cast<uint64_t>(high - low + 1));
  }                 // both included
  float normal() {  // nearly: the sum of twelve uniform ones
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += static_cast<double>(next() >> 11) * 0x1p-53;
    return static_cast<float>(sum);
  }
  std::vector<float> normals(size_t count, float scale = 1.0f, float mean = 0.0f) {
    std::vector<float> values(count);
    for (float& v : values) v = mean + scale * normal();
    return values;
  }

 private:
  uint64_t state_;
};

inline float of_half(uint16_t h) {
  int exponent = h >> 10 & 31, mantissa = h & 1023;
  float size = exponent == 0    ? std::ldexp(static_cast<float>(mantissa), -24)
               : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return h & 0x8000 ? -size : size;
}

inline uint16_t to_half(float v) {  // of finite values, nearest even
  float size = std::fabs(v);
  int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  auto mantissa =
      static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 2048 carries into the exponent
  int bits = size < 0x1p-14f ? mantissa : mantissa + ((exponent + 14) << 10);
  return static_cast<uint16_t>(bits | (std::signbit(v) ? 0x8000 : 0));
}

inline float of_bf16(uint16_t b) {
  uint32_t bits = static_cast<uint32_t>(b) << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

inline uint16_t to_bf16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr const char* kSchemes[] = {"fp32", "int8", "int4", "bf16", "fp16"};  // in the order of Scheme
inline int group_of(Scheme s) { return s == kInt8 ? 64 : s == kInt4 ? 32 : s == kBf16 ? 2 : 1; }

// A matrix in numbers: weights are q * d + m (int4), q * d (int8), or `w`.
struct Weights {
  Scheme scheme;
  int rows, cols, groups;
  std::vector<int> q;       // [rows][groups * group]
  std::vector<float> d, m;  // [rows][groups], of float16
  std::vector<float> w;     // [rows][cols], of the scheme's format

  int group() const { return group_of(scheme); }
  bool integers() const { return scheme == kInt8 || scheme == kInt4; }
  int code(int row, int col) const { return q[static_cast<size_t>(row) * groups * group() + col]; }
  size_t at(int row, int g) const { return static_cast<size_t>(row) * groups + g; }
  float value(int row, int col) const {
    if (!integers()) return w[static_cast<size_t>(row) * cols + col];
    size_t i = at(row, col / group());
    return d[i] * static_cast<float>(code(row, col)) + (scheme == kInt4 ? m[i] : 0.0f);
  }
};

inline Weights empty_weights(Scheme scheme, int rows, int cols) {
  Weights w{scheme, rows, cols, ceil_div(cols, group_of(scheme)), {}, {}, {}, {}};
  if (w.integers()) {
    w.q.resize(static_cast<size_t>(rows) * w.groups * w.group());
    w.d.resize(static_cast<size_t>(rows) * w.groups);
    w.m.resize(w.d.size());
  } else {
    w.w.resize(static_cast<size_t>(rows) * cols);
  }
  return w;
}

// Rounds `x` [rows, cols] to a scheme.
inline Weights quantize(const std::vector<float>& x, Scheme scheme, int rows, int cols) {
  Weights w = empty_weights(scheme, rows, cols);
  if (!w.integers()) {
    for (size_t i = 0; i < x.size(); i++)
      w.w[i] = scheme == kBf16 ? of_bf16(to_bf16(x[i])) : scheme == kFp16 ? of_half(to_half(x[i])) : x[i];
    return w;
  }
  for (int r = 0; r < rows; r++)
    for (int g = 0; g < w.groups; g++) {
      int first = g * w.group(), end = std::min(first + w.group(), cols);
      const float* row = &x[static_cast<size_t>(r) * cols];
      float low = *std::min_element(row + first, row + end), high = *std::max_element(row + first, row + end);
      float step = scheme == kInt8 ? std::max(-low, high) / 127 : (high - low) / 15;
      float& d = w.d[w.at(r, g)] = of_half(to_half(step));
      float& m = w.m[w.at(r, g)] = scheme == kInt8 ? 0.0f : of_half(to_half(low));
      for (int c = first; c < end && d > 0; c++) {
        auto q = static_cast<int>(std::nearbyint((row[c] - m) / d));
        w.q[static_cast<size_t>(r) * w.groups * w.group() + c] =
            scheme == kInt8 ? std::clamp(q, -127, 127) : std::clamp(q, 0, 15);
      }
    }
  return w;
}

// A matrix in the kernels' layout (docs/explanation/weights.md).
struct Packed {
  Packed() = default;
  explicit Packed(const Weights& w) {
    constexpr size_t block_bytes[] = {128, 2112, 640, 128, 64};  // by Scheme
    matrix = {nullptr,
              w.rows,
              w.cols,
              w.scheme,
              ceil_div(w.rows, kPanel),
              w.groups,
              w.group(),
              block_bytes[w.scheme]};
    bytes.resize(static_cast<size_t>(matrix.panels) * matrix.groups * matrix.block_bytes);
    for (int row = 0; row < w.rows; row++)
      for (int g = 0; g < w.groups; g++) {
        uint8_t* block =
            bytes.data() + (static_cast<size_t>(row / kPanel) * w.groups + g) * matrix.block_bytes;
        put(w, row, g, block, row % kPanel);
      }
    matrix.data = bytes.data();
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  Packed(Packed&&) = default;  // a moved vector keeps its bytes where they are
  Packed& operator=(Packed&&) = default;

  Matrix matrix{};
  std::vector<uint8_t> bytes;

 private:
  static void put(const Weights& w, int row, int g, uint8_t* block, int r) {
    auto put16 = [&](int i, uint16_t v) { std::memcpy(block + 2 * i, &v, 2); };
    if (w.scheme == kFp32) {
      std::memcpy(block + 4 * r, &w.w[static_cast<size_t>(row) * w.cols + g], 4);
    } else if (w.scheme == kFp16) {
      put16(r, to_half(w.value(row, g)));
    } else if (w.scheme == kBf16) {
      for (int c = 2 * g; c < std::min(2 * g + 2, w.cols); c++)
        put16(2 * r + c % 2, to_bf16(w.value(row, c)));
    } else if (w.scheme == kInt8) {
      put16(r, to_half(w.d[w.at(row, g)]));
      for (int c = 0; c < 64; c++)
        block[64 + c / 4 * 128 + r * 4 + c % 4] = static_cast<uint8_t>(w.code(row, g * 64 + c));
    } else {
      put16(r, to_half(w.d[w.at(row, g)]));
      put16(kPanel + r, to_half(w.m[w.at(row, g)]));
      for (int c = 0; c < 32; c++)
        block[128 + c / 8 * 128 + r * 4 + c % 4] |=
            static_cast<uint8_t>(w.code(row, g * 32 + c) << (c / 4 % 2 * 4));
    }
  }
};

// One output of a product, step by step as the kernels are specified: groups in order, integers within.
// `fused`: a multiply-add has one rounding.
inline float product(const Weights& w, int row, const float* x, bool fused) {
  auto add = [fused](float a, float b, float c) { return fused ? std::fma(a, b, c) : a * b + c; };
  float y = 0;
  if (!w.integers()) {
    for (int c = 0; c < w.cols; c++) y = add(x[c], w.value(row, c), y);
    return y;
  }
  for (int g = 0; g < w.groups; g++) {
    int first = g * w.group(), end = std::min(first + w.group(), w.cols);
    float peak = 0;
    for (int c = first; c < end; c++) peak = std::max(peak, std::fabs(x[c]));
    float inverse = peak > 0 ? 127.0f / peak : 0.0f, scale = peak / 127.0f;
    int32_t sum = 0, of_x = 0;
    for (int c = first; c < end; c++) {
      auto q = static_cast<int32_t>(std::nearbyint(x[c] * inverse));
      sum += q * w.code(row, c);
      of_x += q;
    }
    y = add(static_cast<float>(sum), w.d[w.at(row, g)] * scale, y);
    if (w.scheme == kInt4) y = add(w.m[w.at(row, g)], scale * static_cast<float>(of_x), y);
  }
  return y;
}

}  // namespace deepwell::tests
