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
// a hit works on the first one, so that all lanes of its warp are there. Lists that overflowed stay
// as they are.
template <class T, class Q>
RESMEM_KERNEL void RESMEM_BOUNDS(kRescoreThreads, 8) rescore_hits(const RescoreArgs<T, Q> args) {
  auto& done = *simt::shared_memory<std::uint32_t>();
  if (simt::thread() == 0) done = 0;
  simt::sync_block();
  const unsigned place = simt::block_x(), count = args.hits.counts[place];
  if (count > args.hits.capacity) return;
  const QueryState state = args.states[place];
  const Hit* hits = args.hits.of(place);
  double* keys = args.hits.keys_of(place);
  const Q* query = args.queries + std::size_t{state.query} * args.d;
  const unsigned groups = simt::threads() / kPairLanes;
  for (unsigned first = 0; first < count; first += groups) {
    const unsigned mine = first + simt::thread() / kPairLanes;
    const Hit hit = hits[mine < count ? mine : 0];
    const CodeFacts facts = args.facts[hit.place];
    bool asked = mine < count && !is_known(keys[mine]);
    if (args.near_alone && asked)
      asked = round_up(distance_ends(state, facts, hit.product).high) <= state.near;
    if (simt::vote(asked) == 0) continue;  // with all lanes of the warp
    const T* row = args.rows + std::size_t{facts.vector} * args.d;
    const double key = pair_key(args.kind, query, row, args.d);
    if (!asked || simt::lane() % kPairLanes != 0) continue;
    keys[mine] = key;
    simt::atomic_add(&done, 1);
  }
  simt::sync_block();
  if (simt::thread() == 0) simt::atomic_add(&args.counters->rescored, done);
}

}  // namespace device
}  // namespace resmem
