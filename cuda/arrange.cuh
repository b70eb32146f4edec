// These kernels say in which order rows and queries are coded (README.md, "Arrangement").
#pragma once

#include "filter.h"
#include "sort.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kArrangeThreads = 256;

// Rows are searched in phases: a seeded sample of this size first, then phases of four times the
// rows of the one before.
inline constexpr std::size_t kFirstPhase = 512;
inline constexpr unsigned kPhaseGrowth = 4;
static_assert(kFirstPhase % kTile == 0, "a tile lies in one phase");

// Returns where a phase ends: 512 (1 + 4 + .. + 4^phase).
RESMEM_HOST_DEVICE std::size_t phase_end(unsigned phase) {
  std::size_t end = 0, rows = kFirstPhase;
  for (unsigned i = 0; i <= phase; ++i, rows *= kPhaseGrowth) end += rows;
  return end;
}

RESMEM_HOST_DEVICE std::uint32_t mixed(std::uint32_t x) {  // as MurmurHash3 ends (Appleby)
  x = (x ^ (x >> 16)) * 0x85EBCA6BU;
  x = (x ^ (x >> 13)) * 0xC2B2AE35U;
  return x ^ (x >> 16);
}

// Returns number i of a permutation of 0 .. n - 1 that n alone decides: a Feistel network permutes
// a power of four that holds n, and is applied until it gives a number below n.
RESMEM_HOST_DEVICE std::uint32_t permuted(std::uint32_t i, std::uint32_t n) {
  unsigned half = 1;
  while (half < 16 && (std::uint64_t{1} << (2 * half)) < n) ++half;
  const std::uint32_t mask = (1U << half) - 1;
  do {
    std::uint32_t left = i >> half, right = i & mask;
    for (std::uint32_t round = 1; round <= 4; ++round) {
      const std::uint32_t next = left ^ (mixed(right + 0x9E3779B9U * round) & mask);
      left = right;
      right = next;
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

inline constexpr unsigned kQueryKeyBits = 16, kRowKeyBits = 24;

// Returns by what queries are ordered.
RESMEM_HOST_DEVICE std::uint32_t exponent_key(int exponent) {
  return static_cast<std::uint32_t>(exponent + kLargestExponent);  // 0 to 800
}

// Returns by what rows are ordered within a phase: the exponent, and the error in units of the
// codes. The 4 bits above are those of the phase.
RESMEM_HOST_DEVICE std::uint32_t row_key(const CodeFacts& row, unsigned depth) {
  constexpr double kErrorLevels = 1023;
  const double units = static_cast<double>(row.error) * power_of_two(row.exponent);
  const double level = units * kErrorLevels / sqrt(static_cast<double>(depth));
  return exponent_key(row.exponent) << 10 |
         static_cast<std::uint32_t>(level < kErrorLevels ? level : kErrorLevels);
}

// Makes the keys by which rows (or queries) are ordered, and their numbers.
RESMEM_KERNEL void order_keys(const CodeFacts* facts, std::uint32_t n, unsigned depth, bool queries,
                              std::uint32_t* keys, std::uint32_t* numbers) {
  const std::size_t i = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (i >= n) return;
  std::uint32_t key = exponent_key(facts[i].exponent);
  if (!queries) {
    const std::uint32_t place = permuted(static_cast<std::uint32_t>(i), n);
    std::uint32_t phase = 0;
    while (phase_end(phase) <= place) ++phase;
    key = phase << 20 | row_key(facts[i], depth);
  }
  keys[i] = key;
  numbers[i] = static_cast<std::uint32_t>(i);
}

// Makes the facts of tiles of rows. A warp works on one tile.
RESMEM_KERNEL void describe_tiles(const CodeFacts* rows, std::uint32_t n, TileFacts* tiles) {
  const std::uint32_t tile = (simt::block_x() * simt::threads() + simt::thread()) / simt::kWarp;
  if (std::size_t{tile} * kTile >= n) return;  // with all lanes of the warp
  int least = kLargestExponent, largest = -kLargestExponent;
  float error = 0;
  for (unsigned i = simt::lane(); i < kTile; i += simt::kWarp) {
    const std::size_t row = std::size_t{tile} * kTile + i;
    if (row >= n) continue;
    const CodeFacts facts = rows[row];
    least = facts.exponent < least ? facts.exponent : least;
    largest = facts.exponent > largest ? facts.exponent : largest;
    error = facts.error > error ? facts.error : error;
  }
  least = -simt::largest_over_lanes(-least);
  largest = simt::largest_over_lanes(largest);
  error = simt::largest_over_lanes(error);
  if (simt::lane() == 0) tiles[tile] = {least, least == largest, error};
}

}  // namespace device
}  // namespace resmem
