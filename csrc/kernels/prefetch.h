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

// Into the second-level cache, which has more misses under way: 512 bytes are best of 0.5 to 8 kB, and of one or a few rows from memory
// read 1.2 to 1.6 x as much as 2 kB into the first one.
constexpr int kPrefetchLaterBytes = 512;

// What the first pass over a panel asks for.
enum Ahead : int { kNothing = 0, kSoon, kLater };

DW_INLINE void prefetch_ahead(const void* at, Ahead ahead) {
  if (ahead == kSoon) prefetch((const uint8_t*)at + kPrefetchBytes);
  if (ahead == kLater) prefetch_later((const uint8_t*)at + kPrefetchLaterBytes);
}

DW_INLINE void prefetch_row(const uint8_t* at, Ahead ahead) {  // 128 bytes: 4 columns of 32 rows
  prefetch_ahead(at, ahead);
  prefetch_ahead(at + 64, ahead);
}

// Rows that come from memory once: those of the next tokens are asked for meanwhile.
DW_INLINE void prefetch_bytes(const void* at, int bytes) {
  for (int i = 0; i < bytes; i += 64) prefetch_later((const uint8_t*)at + i);
}

}  // namespace DW_ISA
}  // namespace deepwell
