#include "simd_scalar.h"
// The vector types come first: the body is written in terms of them.
#include "../kernels-inl.h"

namespace resmem {

const KernelTable& scalar_kernels() {
  static constexpr KernelTable table = make_table("scalar", false);
  return table;
}

}  // namespace resmem
