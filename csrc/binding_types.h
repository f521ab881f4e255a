// What the Python classes share: array types, checks, matrices. A header of one unit, bindings.cpp, and of no kernel table.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "common.h"
#include "integers.h"

namespace deepwell {

namespace nb = nanobind;

template <class T, class... Rest>
using Array = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu, Rest...>;
using Bytes = Array<const uint8_t, nb::ndim<1>>;
using Vector = Array<const float, nb::ndim<1>>;
using Floats = Array<const float, nb::ndim<2>>;
using Ints = Array<const int32_t, nb::ndim<1>>;

constexpr int kMaxThreads = 64;

[[noreturn]] inline void fail(const std::string& message) { throw nb::value_error(message.c_str()); }
inline void require(bool ok, const char* message) {
  if (!ok) fail(message);
}

extern const KernelTable* active_table;  // in use from the next call on

struct PyMatrix {
  PyMatrix(Bytes data, int rows, int cols, const std::string& scheme) : keep(data) {
    require(rows > 0 && cols > 0 && rows <= (1 << 28) && cols <= (1 << 20), "matrix: rows and cols out of range");
    Matrix& m = matrix;
    m.rows = rows, m.cols = cols, m.data = data.data();
    if (scheme == "int8") m.scheme = kInt8, m.group = 64, m.block_bytes = 2112;
    else if (scheme == "int4") m.scheme = kInt4, m.group = 32, m.block_bytes = 640;
    else if (scheme == "fp32") m.scheme = kFp32, m.group = 1, m.block_bytes = 128;
    else if (scheme == "bf16") m.scheme = kBf16, m.group = 2, m.block_bytes = 128;
    else if (scheme == "fp16") m.scheme = kFp16, m.group = 1, m.block_bytes = 64;
    else fail("matrix: scheme must be fp32, bf16, fp16, int8 or int4, not '" + scheme + "'");
    m.panels = ceil_div(rows, kPanel);
    m.groups = ceil_div(cols, m.group);
    size_t want = size_t(m.panels) * m.groups * m.block_bytes;
    if (data.size() != want)
      fail("matrix: " + std::to_string(data.size()) + " bytes given, " + std::to_string(want) + " needed");
    require(reinterpret_cast<uintptr_t>(m.data) % 4 == 0, "matrix: data must be 4-byte aligned");
  }
  std::string scheme() const {
    constexpr const char* names[] = {"fp32", "int8", "int4", "bf16", "fp16"};  // in the order of Scheme
    return names[matrix.scheme];
  }
  Matrix matrix;
  Bytes keep;
};

}  // namespace deepwell
