#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace deepwell {

namespace generic { extern const KernelTable kTable; }
#if defined(__x86_64__)
namespace avx2 { extern const KernelTable kTable; }
namespace avx512 { extern const KernelTable kTable; }
namespace avx512_bf16 { extern const KernelTable kTable, kTileTable; }
#elif defined(__aarch64__)
namespace neon_dotprod { extern const KernelTable kTable; }
namespace neon_i8mm { extern const KernelTable kTable; }
#endif
namespace avx512_emulated { extern const KernelTable kTable; }

#if defined(__x86_64__)
// Whether the processor has AMX for int8 and bf16 and the kernel lets this process use its registers, which it wants to be asked for
// (Documentation/arch/x86/xstate.rst).
static bool has_tiles() {
  unsigned a, b, c, d;
  constexpr unsigned kAll = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAll) != kAll) return false;
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#elif defined(__aarch64__) && defined(__APPLE__)
static bool has_feature(const char* name) {
  int value = 0;
  size_t bytes = sizeof value;
  return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value;
}
static bool has_dot_product() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
static bool has_matrix_product() { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__aarch64__)
// Bits of asm/hwcap.h, which older headers lack (Documentation/arch/arm64/elf_hwcaps.rst).
static bool has_dot_product() { return getauxval(AT_HWCAP) & 1ul << 20; }      // HWCAP_ASIMDDP
static bool has_matrix_product() { return getauxval(AT_HWCAP2) & 1ul << 13; }  // HWCAP2_I8MM
#endif

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
  bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  static const bool tiles = has_bf16 && has_tiles();
  if (tiles) tables[n++] = &avx512_bf16::kTileTable;
  if (has_bf16) tables[n++] = &avx512_bf16::kTable;
  if (has_avx512) tables[n++] = &avx512::kTable;
  if (has_avx2) tables[n++] = &avx2::kTable;
#elif defined(__aarch64__)
  if (has_dot_product() && has_matrix_product()) tables[n++] = &neon_i8mm::kTable;
  if (has_dot_product()) tables[n++] = &neon_dotprod::kTable;
#endif
  tables[n++] = &generic::kTable;
  tables[n++] = &avx512_emulated::kTable;
  return n;
}

}  // namespace deepwell
