// NEON with the dot products of Armv8.2: those of four codes are one instruction.
#define RESMEM_DOTPROD
#include "simd_neon.h"
// The vector types come first: the body is written in terms of them.
#include "../kernels-inl.h"

namespace resmem {

const KernelTable& neon_dotprod_kernels() {
  static constexpr KernelTable table = make_table("neon_dotprod", false);
  return table;
}

}  // namespace resmem
