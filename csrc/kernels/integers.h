// Arithmetic on whole numbers.
#pragma once
#include <stddef.h>

#include "kernels/isa.h"

namespace deepwell {
namespace DW_ISA {

DW_INLINE int max_int(int a, int b) { return a > b ? a : b; }
DW_INLINE int min_int(int a, int b) { return a < b ? a : b; }
DW_INLINE size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

}  // namespace DW_ISA
}  // namespace deepwell
