// This kernel gives hits their canonical keys (cpp/CONTRACT.md, "Distances and order"). Eight lanes
// work on a pair, one for each of the contract's partial sums.
#pragma once

#include "canonical.cuh"
#include "select.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kRescoreThreads = 128;

template <class T, class Q>
struct RescoreArgs {
  const Q* queries;  // (queries, d), by number
  const T* rows;     // (rows, d)
  unsigned d;
  KeyKind kind;
  bool near_alone;  // whether hits that are perhaps not among the k nearest are left out
  const QueryState* states;
  const CodeFacts* facts;
  HitLists hits;
  Counters* counters;
};

// A block works on one query, and its groups of eight lanes take the hits in turn. A group without
// a hit works on the row of place 0, so that all lanes of its warp are there. Lists that overflowed
// stay as they are.
template <class T, class Q>
RESMEM_KERNEL void RESMEM_BOUNDS(kRescoreThreads, 8) rescore_hits(const RescoreArgs<T, Q> args) {
  auto& done = *simt::shared_memory<std::uint32_t>();
  if (simt::thread() == 0) done = 0;
  simt::sync_block();
  const unsigned at = simt::block_x(), count = args.hits.counts[at];
  if (count > args.hits.capacity) return;
  const QueryState state = args.states[at];
  std::uint32_t* places = args.hits.places_of(at);
  Known* known = args.hits.known_of(at);
  const Q* query = args.queries + std::size_t{state.query} * args.d;
  const unsigned groups = simt::threads() / kPairLanes;
  for (unsigned first = 0; first < count; first += groups) {
    const unsigned mine = first + simt::thread() / kPairLanes;
    const std::uint32_t place = mine < count ? places[mine] : 0;
    bool asked = mine < count && (place & kHasKey) == 0;
    if (asked && args.near_alone) asked = known[mine].high() <= state.near;
    if (simt::vote(asked) == 0) continue;  // with all lanes of the warp
    const std::uint32_t row = args.facts[place & ~kHasKey].vector;
    const double key = pair_key(args.kind, query, args.rows + std::size_t{row} * args.d, args.d);
    simt::sync_warp();  // all lanes of a pair have read its place
    if (!asked || simt::lane() % kPairLanes != 0) continue;
    known[mine] = Known::key(key);
    places[mine] = place | kHasKey;
    simt::atomic_add(&done, 1);
  }
  simt::sync_block();
  if (simt::thread() == 0) simt::atomic_add(&args.counters->rescored, std::uint64_t{done});
}

}  // namespace device
}  // namespace resmem
