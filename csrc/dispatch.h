// Which kernel tables this build and this processor offer.
#pragma once
#include "common.h"

namespace deepwell {

constexpr int kMaxTables = 6;

// Tables that run here, best first; returns how many. "avx512_emulated" is a test aid and comes last.
int available_tables(const KernelTable** tables);

}  // namespace deepwell
