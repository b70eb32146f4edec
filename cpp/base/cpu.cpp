#include "cpu.h"

#include <cstdlib>
#include <stdexcept>

#include "platform.h"

namespace resmem {

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found{&scalar_kernels()};
#if defined(__x86_64__)
    const CpuFeatures cpu = cpu_features();
    if (cpu.avx2) found.push_back(&avx2_kernels());
    // Emulated AVX-512 is itself compiled to AVX2.
    const bool emulated = avx512_kernels().emulated;
    if (emulated ? cpu.avx2 : cpu.avx512) found.push_back(&avx512_kernels());
    if (emulated ? cpu.avx2 : cpu.avx512_vnni) found.push_back(&avx512vnni_kernels());
#elif defined(__aarch64__)
    found.push_back(&neon_kernels());
    if (cpu_features().neon_dot_products) found.push_back(&neon_dotprod_kernels());
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
