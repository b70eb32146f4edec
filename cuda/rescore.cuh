// This kernel gives hits their canonical keys (cpp/CONTRACT.md, "Distances and order"). Eight lanes
// work on a pair, one for each of the contract's partial sums.
#pragma once

#include "filter.h"

namespace resmem {
namespace device {

inline constexpr unsigned kPairLanes = 8;
inline constexpr unsigned kRescoreThreads = 128;

enum class KeyKind { squared_distance, cosine, inner_product };

struct RescoreArgs {
  const float* queries;  // (queries, d)
  const float* rows;     // (rows, d)
  unsigned d;
  KeyKind kind;
  const std::uint32_t* counts;  // (queries,) hits, perhaps more than are kept
  const Hit* hits;              // (queries, capacity)
  unsigned capacity;
  double* keys;  // (queries, capacity); +inf for rows that are not finite
};

// Adds the partial sums of eight lanes by the contract's tree: p0 + p4, then with p2 + p6, then
// with the odd ones. Every lane gets the sum.
RESMEM_DEVICE double combined(double partial) {
  partial += simt::shuffle_xor(partial, 4);
  partial += simt::shuffle_xor(partial, 2);
  return partial + simt::shuffle_xor(partial, 1);
}

RESMEM_DEVICE double pair_dot(const float* a, const float* b, unsigned d) {
  double partial = 0;
  for (unsigned i = simt::lane() % kPairLanes; i < d; i += kPairLanes)
    partial += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return combined(partial);
}

RESMEM_DEVICE double pair_squared_distance(const float* a, const float* b, unsigned d) {
  double partial = 0;
  for (unsigned i = simt::lane() % kPairLanes; i < d; i += kPairLanes) {
    const double t = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    partial += t * t;
  }
  return combined(partial);
}

// All lanes of a warp call it, as they exchange sums.
RESMEM_DEVICE double pair_key(KeyKind kind, const float* query, const float* row, unsigned d) {
  if (kind == KeyKind::squared_distance) return pair_squared_distance(query, row, d);
  const double dot = pair_dot(query, row, d);
  if (kind == KeyKind::inner_product) return -dot;
  const double product = pair_dot(query, query, d) * pair_dot(row, row, d);
  if (product == 0) return 1;
  const double c = 1 - dot / sqrt(product);
  return c < 0 ? 0 : c;  // NaN must stay NaN
}

// A block works on one query, and its groups of eight lanes take the hits in turn. A group without
// a hit works on the first one, so that all lanes of its warp are there.
RESMEM_KERNEL void RESMEM_BOUNDS(kRescoreThreads, 8) rescore_hits(const RescoreArgs args) {
  const unsigned query = simt::block_x();
  const unsigned kept = args.counts[query] < args.capacity ? args.counts[query] : args.capacity;
  const Hit* hits = args.hits + std::size_t{query} * args.capacity;
  double* keys = args.keys + std::size_t{query} * args.capacity;
  const float* own = args.queries + std::size_t{query} * args.d;
  const unsigned groups = simt::threads() / kPairLanes;
  for (unsigned first = 0; first < kept; first += groups) {
    const unsigned mine = first + simt::thread() / kPairLanes;
    const float* row = args.rows + std::size_t{hits[mine < kept ? mine : 0].row} * args.d;
    const double key = pair_key(args.kind, own, row, args.d);
    const bool finite = key - key == 0;
    if (mine < kept && simt::lane() % kPairLanes == 0) keys[mine] = finite ? key : __builtin_inf();
  }
}

}  // namespace device
}  // namespace resmem
