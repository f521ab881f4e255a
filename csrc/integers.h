// Whole-number arithmetic of bindings and kernels.
//
// `static` keeps a copy in each unit, so the linker cannot keep an AVX512 unit's for all (see common.h); std::min and std::max
// are such functions. Floats stay spelled out: which operand a NaN leaves decides bits.
#pragma once
#include <stddef.h>

namespace deepwell {

template <class T>
[[gnu::always_inline]] static constexpr T min_of(T a, T b) {
  return a < b ? a : b;
}

template <class T>
[[gnu::always_inline]] static constexpr T max_of(T a, T b) {
  return a > b ? a : b;
}

// a / b, rounded up.
template <class A, class B>
[[gnu::always_inline]] static constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

// The least multiple of `to` from v on.
template <class T>
[[gnu::always_inline]] static constexpr T round_up(T v, size_t to) {
  return (T)(ceil_div((size_t)v, to) * to);
}

}  // namespace deepwell
