// These kernels sort numbers of 32 bits, each with a value, by one byte at a time from the lowest
// (a radix sort). Each pass keeps the order of equal bytes. A block works on a chunk of the
// numbers, and a warp on a part of the chunk, so that order is that of warps and blocks.
#pragma once

#include "simt.h"

namespace resmem {
namespace device {

inline constexpr unsigned kSortThreads = 256;
inline constexpr unsigned kSortWarps = kSortThreads / simt::kWarp;
inline constexpr unsigned kSortDigits = 256;
inline constexpr unsigned kSortChunk = 2048;  // numbers that a block sorts
inline constexpr unsigned kSortPart = kSortChunk / kSortWarps;

struct SortArgs {
  const std::uint32_t *keys, *values;  // (n,)
  std::uint32_t *sorted_keys, *sorted_values;
  std::uint32_t n;
  unsigned shift;         // of the byte that this pass sorts by
  std::uint32_t* counts;  // (256, blocks): how many numbers of a block have a byte
};

// Counts of each warp and byte; afterwards where the next number of this warp with this byte goes.
struct SortShared {
  std::uint32_t at[kSortWarps][kSortDigits];
};

RESMEM_DEVICE unsigned byte_of(const SortArgs& args, std::size_t i) {
  return args.keys[i] >> args.shift & (kSortDigits - 1);
}

// Counts the bytes of a chunk, warp by warp.
RESMEM_DEVICE void count_bytes(const SortArgs& args, SortShared& shared) {
  const unsigned warp = simt::thread() / simt::kWarp;
  for (unsigned i = simt::lane(); i < kSortDigits; i += simt::kWarp) shared.at[warp][i] = 0;
  simt::sync_warp();
  const std::size_t first = std::size_t{simt::block_x()} * kSortChunk + warp * kSortPart;
  for (unsigned i = simt::lane(); i < kSortPart; i += simt::kWarp)
    if (first + i < args.n) simt::atomic_add(&shared.at[warp][byte_of(args, first + i)], 1);
  simt::sync_block();
}

RESMEM_KERNEL void RESMEM_BOUNDS(kSortThreads, 4) count_chunks(const SortArgs args) {
  auto& shared = *simt::shared_memory<SortShared>();
  count_bytes(args, shared);
  const unsigned byte = simt::thread();
  std::uint32_t sum = 0;
  for (unsigned warp = 0; warp < kSortWarps; ++warp) sum += shared.at[warp][byte];
  args.counts[std::size_t{byte} * simt::blocks_x() + simt::block_x()] = sum;
}

// Replaces `count` numbers by the sums of those before each. There is one block; each of its
// threads sums a run of them.
RESMEM_KERNEL void RESMEM_BOUNDS(kSortThreads, 1)
    sums_before(std::uint32_t* numbers, std::size_t count) {
  auto* sums = simt::shared_memory<std::uint32_t>();
  const std::size_t run = (count + simt::threads() - 1) / simt::threads();
  const std::size_t first = simt::thread() * run;
  const std::size_t last = first + run < count ? first + run : count;
  std::uint32_t sum = 0;
  for (std::size_t i = first; i < last; ++i) sum += numbers[i];
  sums[simt::thread()] = sum;
  simt::sync_block();
  std::uint32_t before = 0;
  for (unsigned t = 0; t < simt::thread(); ++t) before += sums[t];
  for (std::size_t i = first; i < last; ++i) {
    const std::uint32_t number = numbers[i];
    numbers[i] = before;
    before += number;
  }
}

// Returns the lanes whose numbers are there and have this lane's byte.
RESMEM_DEVICE std::uint32_t lanes_with(unsigned byte, bool there) {
  std::uint32_t same = simt::vote(there);
  for (unsigned bit = 1; bit < kSortDigits; bit *= 2) {
    const std::uint32_t set = simt::vote((byte & bit) != 0);
    same &= (byte & bit) != 0 ? set : ~set;
  }
  return same;
}

RESMEM_KERNEL void RESMEM_BOUNDS(kSortThreads, 4) scatter_chunks(const SortArgs args) {
  auto& shared = *simt::shared_memory<SortShared>();
  count_bytes(args, shared);
  std::uint32_t next =
      args.counts[std::size_t{simt::thread()} * simt::blocks_x() + simt::block_x()];
  for (unsigned warp = 0; warp < kSortWarps; ++warp) {
    const std::uint32_t count = shared.at[warp][simt::thread()];
    shared.at[warp][simt::thread()] = next;
    next += count;
  }
  simt::sync_block();
  const unsigned warp = simt::thread() / simt::kWarp;
  const std::size_t first = std::size_t{simt::block_x()} * kSortChunk + warp * kSortPart;
  for (unsigned i = 0; i < kSortPart; i += simt::kWarp) {
    const std::size_t mine = first + i + simt::lane();
    const bool there = mine < args.n;
    const unsigned byte = there ? byte_of(args, mine) : 0;
    const std::uint32_t same = lanes_with(byte, there);
    const std::uint32_t to = shared.at[warp][byte] + simt::bit_count(same & simt::lanes_before());
    if (there) {
      args.sorted_keys[to] = args.keys[mine];
      args.sorted_values[to] = args.values[mine];
    }
    simt::sync_warp();  // all lanes have read where their numbers go
    if (there && (same & simt::lanes_before()) == 0) shared.at[warp][byte] += simt::bit_count(same);
    simt::sync_warp();
  }
}

}  // namespace device
}  // namespace resmem
