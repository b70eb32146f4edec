#include "simd_avx2.h"
// The vector types come first: the body is written in terms of them.
#include "../kernels-inl.h"

namespace resmem {

const KernelTable& avx2_kernels() {
  static constexpr KernelTable table = make_table("avx2", false);
  return table;
}

}  // namespace resmem
