#include "simd_avx512.h"
// The vector types come first: the body is written in terms of them.
#include "../kernels-inl.h"

namespace resmem {

const KernelTable& avx512_kernels() {
  static constexpr KernelTable table = make_table("avx512", kEmulated);
  return table;
}

}  // namespace resmem
