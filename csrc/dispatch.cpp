#include "dispatch.h"

namespace deepwell {

namespace generic { extern const KernelTable kTable; }
#if defined(__x86_64__)
namespace avx2 { extern const KernelTable kTable; }
namespace avx512 { extern const KernelTable kTable; }
namespace avx512_bf16 { extern const KernelTable kTable; }
#endif
namespace avx512_emulated { extern const KernelTable kTable; }

int available_tables(const KernelTable** tables) {
  int n = 0;
#if defined(__x86_64__)
  // Each check includes the operating system's support for the registers (XCR0).
  __builtin_cpu_init();
  bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
              __builtin_cpu_supports("bmi2");
  bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vnni");
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) tables[n++] = &avx512_bf16::kTable;
  if (has_avx512) tables[n++] = &avx512::kTable;
  if (has_avx2) tables[n++] = &avx2::kTable;
#endif
  tables[n++] = &generic::kTable;
  tables[n++] = &avx512_emulated::kTable;
  return n;
}

}  // namespace deepwell
