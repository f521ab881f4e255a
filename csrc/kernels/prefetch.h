// Asks for weights and cached tokens before they are read: the hardware does not follow the kernels' strides.
#pragma once
#include <stdint.h>

#include "kernels/isa.h"

namespace deepwell {
namespace DW_ISA {

DW_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// Into the second-level cache: what is read behind so much else that the first one would have lost it, and evicted what is in use.
DW_INLINE void prefetch_later(const void* p) { __builtin_prefetch(p, 0, 2); }

// How far ahead of the first pass over a panel memory is asked for. The hardware does not follow: a pass of half a panel's width
// touches every other line. 2 kB is best of 1, 2, 4 and 8 kB: 22 GB/s on one core, 8 kB gives 16.
constexpr int kPrefetchBytes = 2048;

DW_INLINE void prefetch_ahead(const void* at) { prefetch((const uint8_t*)at + kPrefetchBytes); }

DW_INLINE void prefetch_row(const uint8_t* at) {  // 128 bytes: 4 columns of 32 rows
  prefetch(at + kPrefetchBytes);
  prefetch(at + kPrefetchBytes + 64);
}

// Rows that come from memory once: those of the next tokens are asked for meanwhile.
DW_INLINE void prefetch_bytes(const void* at, int bytes) {
  for (int i = 0; i < bytes; i += 64) prefetch_later((const uint8_t*)at + i);
}

}  // namespace DW_ISA
}  // namespace deepwell
