// Canonical keys of pairs of a query and a row (cpp/CONTRACT.md, "Distances and order"). Eight
// lanes work on a pair, one for each of the contract's partial sums.
#pragma once

#include "numbers.cuh"
#include "points.h"

namespace resmem {
namespace device {

inline constexpr unsigned kPairLanes = 8;

// Adds the partial sums of eight lanes by the contract's tree: p0 + p4, then with p2 + p6, then
// with the odd ones. Every lane gets the sum.
RESMEM_DEVICE double combined(double partial) {
  partial += simt::shuffle_xor(partial, 4);
  partial += simt::shuffle_xor(partial, 2);
  return partial + simt::shuffle_xor(partial, 1);
}

template <class A, class B>
RESMEM_DEVICE double pair_dot(const A* a, const B* b, unsigned d) {
  double partial = 0;
  for (unsigned i = simt::lane() % kPairLanes; i < d; i += kPairLanes)
    partial += wide(a[i]) * wide(b[i]);
  return combined(partial);
}

template <class A, class B>
RESMEM_DEVICE double pair_squared_distance(const A* a, const B* b, unsigned d) {
  double partial = 0;
  for (unsigned i = simt::lane() % kPairLanes; i < d; i += kPairLanes) {
    const double t = wide(a[i]) - wide(b[i]);
    partial += t * t;
  }
  return combined(partial);
}

template <class A, class B>
RESMEM_DEVICE double pair_raw_key(KeyKind kind, const A* query, const B* row, unsigned d) {
  if (kind == KeyKind::squared_distance) return pair_squared_distance(query, row, d);
  const double dot = pair_dot(query, row, d);
  if (kind == KeyKind::inner_product) return -dot;
  const double product = pair_dot(query, query, d) * pair_dot(row, row, d);
  if (product == 0) return 1;
  const double c = 1 - dot / sqrt(product);
  return c < 0 ? 0 : c;  // NaN must stay NaN
}

// Returns the key of a pair, +inf for a row that is not finite. All lanes of a warp call it, as
// they exchange sums.
template <class A, class B>
RESMEM_DEVICE double pair_key(KeyKind kind, const A* query, const B* row, unsigned d) {
  const double key = pair_raw_key(kind, query, row, d);
  return key - key == 0 ? key : __builtin_inf();
}

// What a search did. Sums over blocks, so that they do not depend on their order.
struct Counters {
  std::uint64_t hits;      // pairs that the filter let through
  std::uint64_t rescored;  // canonical keys of those
  std::uint64_t compared;  // canonical keys of queries that were compared with rows one by one
  std::uint64_t given_up;  // queries whose lists overflowed
};

}  // namespace device
}  // namespace resmem
