// Where a step's scratch lies.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "integers.h"
#include "kernels/quantize.h"

namespace deepwell {
namespace DW_ISA {

struct Arena {
  uint8_t* base;
  size_t used;
};

template <class T>
DW_INLINE T* take(Arena* arena, size_t count) {
  T* p = (T*)(arena->base + arena->used);
  arena->used = round_up(arena->used + count * sizeof(T), 64);
  return p;
}

}  // namespace DW_ISA
}  // namespace deepwell
