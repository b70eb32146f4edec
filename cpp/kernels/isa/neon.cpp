#include "simd_neon.h"
// The vector types come first: the body is written in terms of them.
#include "../kernels-inl.h"

namespace resmem {

const KernelTable& neon_kernels() {
  static constexpr KernelTable table = make_table("neon", false);
  return table;
}

}  // namespace resmem
