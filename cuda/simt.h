// What a kernel uses of the machine, under names that hold in two worlds: nvcc compiles them to a
// device's own, and any other compiler to emulation/, where every thread is a fiber and the rules
// of the execution model are checked. A kernel has one-dimensional blocks of a multiple of 32
// threads in a grid of one or two dimensions, and dynamic shared memory only; all lanes of a warp
// take part in each of its exchanges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../cpp/base/host_device.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define RESMEM_KERNEL __global__
// At most so many threads are in a block, and so many blocks are on a multiprocessor at once.
#define RESMEM_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define RESMEM_DEVICE __device__ __forceinline__
#define RESMEM_UNROLL _Pragma("unroll")    // before a loop whose arrays must be registers
#define RESMEM_ROLLED _Pragma("unroll 1")  // before a loop whose copies would take registers

namespace resmem {
namespace simt {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFF;

RESMEM_DEVICE unsigned thread() { return threadIdx.x; }
RESMEM_DEVICE unsigned threads() { return blockDim.x; }
RESMEM_DEVICE unsigned lane() { return threadIdx.x % kWarp; }
RESMEM_DEVICE unsigned block_x() { return blockIdx.x; }
RESMEM_DEVICE unsigned block_y() { return blockIdx.y; }
RESMEM_DEVICE unsigned blocks_x() { return gridDim.x; }

template <class T>
RESMEM_DEVICE T* shared_memory() {
  extern __shared__ __align__(128) unsigned char resmem_shared[];
  return reinterpret_cast<T*>(resmem_shared);
}

RESMEM_DEVICE void sync_block() { __syncthreads(); }
RESMEM_DEVICE bool sync_block_any(bool said) { return __syncthreads_or(said) != 0; }
RESMEM_DEVICE void sync_warp() { __syncwarp(); }
RESMEM_DEVICE std::uint32_t vote(bool said) { return __ballot_sync(kAllLanes, said); }
template <class T>
RESMEM_DEVICE T shuffle(T value, unsigned from) {
  return __shfl_sync(kAllLanes, value, static_cast<int>(from));
}
template <class T>
RESMEM_DEVICE T shuffle_xor(T value, unsigned mask) {
  return __shfl_xor_sync(kAllLanes, value, static_cast<int>(mask));
}
RESMEM_DEVICE unsigned bit_count(std::uint32_t bits) {
  return static_cast<unsigned>(__popc(static_cast<int>(bits)));
}
RESMEM_DEVICE std::uint32_t atomic_add(std::uint32_t* to, std::uint32_t value) {
  return atomicAdd(to, value);
}
RESMEM_DEVICE void atomic_add(std::uint64_t* to, std::uint64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
RESMEM_DEVICE void atomic_max(std::uint64_t* to, std::uint64_t value) {
  atomicMax(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}

}  // namespace simt
}  // namespace resmem

#else

#include "emulation/block.h"

#define RESMEM_KERNEL inline
#define RESMEM_BOUNDS(threads, blocks)
#define RESMEM_DEVICE inline
#define RESMEM_UNROLL
#define RESMEM_ROLLED

namespace resmem {
namespace simt {

inline constexpr unsigned kWarp = emulation::kWarp;

inline unsigned thread() { return emulation::Block::current().thread(); }
inline unsigned threads() { return emulation::Block::current().threads(); }
inline unsigned lane() { return emulation::Block::current().lane(); }
inline unsigned block_x() { return emulation::Block::current().index().x; }
inline unsigned block_y() { return emulation::Block::current().index().y; }
inline unsigned blocks_x() { return emulation::Block::current().grid().x; }

template <class T>
T* shared_memory() {
  return static_cast<T*>(emulation::Block::current().shared());
}

// The compiler gives the line of the call, by which two places of a kernel are told apart.
inline void sync_block(int line = __builtin_LINE()) {
  emulation::Block::current().sync(false, {"sync_block", line});
}
inline bool sync_block_any(bool said, int line = __builtin_LINE()) {
  return emulation::Block::current().sync(said, {"sync_block_any", line});
}
inline void sync_warp(int line = __builtin_LINE()) {
  emulation::Block::current().sync_warp({"sync_warp", line});
}
inline std::uint32_t vote(bool said, int line = __builtin_LINE()) {
  const bool* all = emulation::Block::current().exchange(said, {"vote", line});
  std::uint32_t votes = 0;
  for (unsigned i = 0; i < kWarp; ++i) votes |= static_cast<std::uint32_t>(all[i]) << i;
  return votes;
}
template <class T>
T shuffle(T value, unsigned from, int line = __builtin_LINE()) {
  return emulation::Block::current().exchange(value, {"shuffle", line})[from % kWarp];
}
template <class T>
T shuffle_xor(T value, unsigned mask, int line = __builtin_LINE()) {
  return emulation::Block::current().exchange(value, {"shuffle_xor", line})[lane() ^ mask];
}
inline unsigned bit_count(std::uint32_t bits) {
  return static_cast<unsigned>(__builtin_popcount(bits));
}
inline std::uint32_t atomic_add(std::uint32_t* to, std::uint32_t value) {
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
inline void atomic_add(std::uint64_t* to, std::uint64_t value) {
  __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
inline void atomic_max(std::uint64_t* to, std::uint64_t value) {
  std::uint64_t before = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (before < value && !__atomic_compare_exchange_n(to, &before, value, false, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
  }
}

}  // namespace simt
}  // namespace resmem

#endif

namespace resmem {
namespace simt {

// Return sums and maxima over the 32 lanes, in the order of a tree: every lane gets the same.
template <class T>
RESMEM_DEVICE T sum_over_lanes(T value) {
  for (unsigned bit = kWarp / 2; bit > 0; bit /= 2) value += shuffle_xor(value, bit);
  return value;
}
template <class T>
RESMEM_DEVICE T largest_over_lanes(T value) {
  for (unsigned bit = kWarp / 2; bit > 0; bit /= 2) {
    const T other = shuffle_xor(value, bit);
    value = other > value ? other : value;
  }
  return value;
}

// Loads 16 bytes that lie at a multiple of 16.
RESMEM_DEVICE void load_words(std::uint32_t (&words)[4], const void* from) {
#if defined(__CUDACC__)
  const uint4 loaded = *static_cast<const uint4*>(from);
  words[0] = loaded.x;
  words[1] = loaded.y;
  words[2] = loaded.z;
  words[3] = loaded.w;
#else
  std::memcpy(words, __builtin_assume_aligned(from, 16), sizeof words);
#endif
}

// Returns the lanes before this one, as bits.
RESMEM_DEVICE std::uint32_t lanes_before() { return (1U << lane()) - 1; }

}  // namespace simt
}  // namespace resmem
