// Starts a kernel on a stream of the current device.
#pragma once

#include <string>

#include "driver.h"
#include "simt.h"

#if !defined(__CUDACC__)
#include <algorithm>
#include <functional>
#include <numeric>

#include "emulation/faults.h"
#endif

namespace resmem {
namespace simt {

struct Grid {
  unsigned x = 1, y = 1;
};

struct Launch {
  const char* name;  // of the kernel, for messages
  Grid grid;
  unsigned threads;  // of a block
  std::size_t shared_bytes = 0;
};

#if defined(__CUDACC__)

// Throws DeviceError for what the runtime says of the launch itself. A kernel that fails is told of
// later, by wait().
template <class... Parameters, class... Arguments>
void launch(const Launch& how, device::StreamHandle stream, void (*kernel)(Parameters...),
            Arguments... arguments) {
  constexpr std::size_t kAlwaysThere = std::size_t{48} << 10;
  cudaError_t error = cudaSuccess;
  if (how.shared_bytes > kAlwaysThere)
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(how.shared_bytes));
  if (error == cudaSuccess)
    kernel<<<dim3(how.grid.x, how.grid.y), how.threads, how.shared_bytes,
             reinterpret_cast<cudaStream_t>(stream.address)>>>(
        static_cast<Parameters>(arguments)...);
  const cudaError_t last = cudaGetLastError();  // takes it out of the runtime, whoever failed
  if (error == cudaSuccess) error = last;
  if (error != cudaSuccess) device::throw_failed_launch(how.name, cudaGetErrorString(error));
}

#else

// Chooses the order of blocks, and of threads where they may run in any order.
inline std::uint64_t& emulation_seed() {
  static std::uint64_t seed = 1;
  return seed;
}

template <class... Parameters, class... Arguments>
void run_grid(void (*kernel)(Parameters...), Grid grid, unsigned block_threads,
              std::size_t shared_bytes, Arguments... arguments) {
  emulation::Block block(block_threads, shared_bytes, emulation_seed());
  std::vector<unsigned> order(std::size_t{grid.x} * grid.y);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(emulation_seed()));
  for (const unsigned at : order)
    block.run({grid.x, grid.y}, {at % grid.x, at / grid.x},
              [&] { kernel(static_cast<Parameters>(arguments)...); });
}

// Asks a stream of the current device for work.
void enqueue(device::StreamHandle stream, const char* kernel, std::function<void()> run);

template <class... Parameters, class... Arguments>
void launch(const Launch& how, device::StreamHandle stream, void (*kernel)(Parameters...),
            Arguments... arguments) {
  if (emulation::faults().fails(how.name)) device::throw_failed_launch(how.name, "a planted fault");
  enqueue(stream, how.name,
          [=] { run_grid(kernel, how.grid, how.threads, how.shared_bytes, arguments...); });
}

#endif

}  // namespace simt
}  // namespace resmem
