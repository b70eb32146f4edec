// The CPU's own exp, compiled for the device as well, and what a block computes of a row of numbers
// together.
#pragma once

#include "canonical.cuh"

#define RESMEM_INLINE RESMEM_HOST_DEVICE
#include "../cpp/kernels/body/canonical_functions-inl.h"
#include "../cpp/kernels/isa/scalar_float64.h"

namespace resmem {
namespace device {

RESMEM_DEVICE double exp_of(double x) { return canonical_exp(F64{x}).v; }

// Rows of many columns are worked on by blocks of this many threads, others by fewer.
inline constexpr unsigned kRowThreads = 256;

// What the threads of such a block share.
struct RowShared {
  double of_warp[kRowThreads / simt::kWarp];
  double total;
  std::uint32_t count;
};

// Returns the largest of the threads' values, which are no NaN.
RESMEM_DEVICE double block_largest(double value, RowShared& shared) {
  const double of_warp = simt::largest_over_lanes(value);
  if (simt::lane() == 0) shared.of_warp[simt::thread() / simt::kWarp] = of_warp;
  simt::sync_block();
  double largest = shared.of_warp[0];
  for (unsigned w = 1; w < simt::threads() / simt::kWarp; ++w)
    largest = shared.of_warp[w] > largest ? shared.of_warp[w] : largest;
  simt::sync_block();  // all have read
  return largest;
}

// Returns for how many of n numbers says(i) holds, to all threads of the block. What they wrote
// before is seen by `says`.
template <class Says>
RESMEM_DEVICE std::uint32_t block_count(std::size_t n, const Says& says, RowShared& shared) {
  simt::sync_block();  // all have read the count before
  if (simt::thread() == 0) shared.count = 0;
  simt::sync_block();
  std::uint32_t mine = 0;
  for (std::size_t i = simt::thread(); i < n; i += simt::threads()) mine += says(i) ? 1 : 0;
  mine = simt::sum_over_lanes(mine);
  if (simt::lane() == 0) simt::atomic_add(&shared.count, mine);
  simt::sync_block();
  return shared.count;
}

// Returns one partial sum of n terms: of those from `first` on, a round apart. Several terms are on
// their way at once.
template <class Term>
RESMEM_DEVICE double partial_sum(std::size_t first, std::size_t n, const Term& term) {
  constexpr unsigned kAhead = 8;
  double partial = 0;
  std::size_t i = first;
  for (; i + (kAhead - 1) * kPairLanes < n; i += kAhead * kPairLanes) {
    double next[kAhead];
    RESMEM_UNROLL
    for (unsigned a = 0; a < kAhead; ++a) next[a] = term(i + a * kPairLanes);
    RESMEM_UNROLL
    for (unsigned a = 0; a < kAhead; ++a) partial += next[a];
  }
  for (; i < n; i += kPairLanes) partial += term(i);
  return partial;
}

// Returns the canonical sum of n terms, term(i) of each, to all threads of the block. What they
// wrote before is seen by `term`.
template <class Term>
RESMEM_DEVICE double canonical_total(std::size_t n, const Term& term, RowShared& shared) {
  simt::sync_block();
  if (simt::thread() < simt::kWarp) {
    const bool adds = simt::lane() < kPairLanes;
    const double total = combined(adds ? partial_sum(simt::lane(), n, term) : 0.0);
    if (simt::thread() == 0) shared.total = total;
  }
  simt::sync_block();
  return shared.total;
}

}  // namespace device
}  // namespace resmem
