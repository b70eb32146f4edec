// Starts a kernel on a device's stream, or in the emulation, where it has ended on return.
#pragma once

#include "simt.h"

#if !defined(__CUDACC__)
#include <algorithm>
#include <numeric>
#endif

namespace resmem {
namespace simt {

struct Grid {
  unsigned x = 1, y = 1;
};

#if defined(__CUDACC__)

// Returns what the runtime says of the launch itself; a kernel that fails is told of later.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), Grid grid, unsigned block_threads,
                   std::size_t shared_bytes, Stream stream, Arguments... arguments) {
  constexpr std::size_t kAlwaysThere = std::size_t{48} << 10;
  if (shared_bytes > kAlwaysThere) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<dim3(grid.x, grid.y), block_threads, shared_bytes, stream>>>(
      static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

#else

// Chooses the order of blocks, and of threads where they may run in any order.
inline std::uint64_t& emulation_seed() {
  static std::uint64_t seed = 1;
  return seed;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, unsigned block_threads,
            std::size_t shared_bytes, Arguments... arguments) {
  emulation::Block block(block_threads, shared_bytes, emulation_seed());
  std::vector<unsigned> order(std::size_t{grid.x} * grid.y);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(emulation_seed()));
  for (const unsigned at : order)
    block.run({grid.x, grid.y}, {at % grid.x, at / grid.x},
              [&] { kernel(static_cast<Parameters>(arguments)...); });
}

#endif

}  // namespace simt
}  // namespace resmem
