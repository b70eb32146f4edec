#include "cpu.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace resmem {

#if defined(__x86_64__)
// __builtin_cpu_supports knows "f16c" from clang 16 on only; AVX2 tells of the operating system.
static bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found{&scalar_kernels()};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
      found.push_back(&avx2_kernels());
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    // Emulated AVX-512 is itself compiled to AVX2.
    const bool emulated = avx512_kernels().emulated;
    if (emulated ? found.size() == 2 : avx512) found.push_back(&avx512_kernels());
    if (emulated ? found.size() == 3 : avx512 && __builtin_cpu_supports("avx512vnni"))
      found.push_back(&avx512vnni_kernels());
#elif defined(__aarch64__)
    found.push_back(&neon_kernels());
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) found.push_back(&neon_dotprod_kernels());
#endif
    return found;
  }();
  return tables;
}

const KernelTable& select_kernels(const std::string& name) {
  std::string wanted = name;
  if (wanted.empty()) {
    const char* forced = std::getenv("RESMEM_ISA");
    wanted = forced == nullptr ? "" : forced;
  }
  const KernelTable* fastest = nullptr;
  std::string names;
  for (const KernelTable* table : available_kernels()) {
    if (wanted == table->name) return *table;
    if (!table->emulated) fastest = table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  if (wanted.empty()) return *fastest;
  throw std::invalid_argument("ISA '" + wanted + "' is not available here; there is: " + names +
                              " (RESMEM_ISA chooses one of them)");
}

}  // namespace resmem
