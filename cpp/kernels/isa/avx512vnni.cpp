// AVX-512 with VNNI: products of four codes are one instruction.
#define RESMEM_VNNI
#include "simd_avx512.h"
// The vector types come first: the body is written in terms of them.
#include "../kernels-inl.h"

namespace resmem {

const KernelTable& avx512vnni_kernels() {
  static constexpr KernelTable table = make_table("avx512vnni", kEmulated);
  return table;
}

}  // namespace resmem
