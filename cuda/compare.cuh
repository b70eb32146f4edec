// This kernel compares queries with every row by canonical keys, where no filter can: queries whose
// lists overflowed, rows that are few or were not coded, and many neighbours. A block works on one
// query.
#pragma once

#include "rank.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kCompareThreads = 256;

template <class T, class Q>
struct CompareArgs {
  const Q* queries;  // (queries, d), by number
  const T* rows;     // (rows, d)
  std::uint32_t row_count;
  unsigned d;
  KeyKind kind;
  bool all;  // whether all queries are compared, and not only those whose lists overflowed
  RankArgs rank;
  Counters* counters;
};

// Notes the rows of a chunk, given by places, that come no later than the k-th so far.
template <class T, class Q>
RESMEM_DEVICE void compare_chunk(const CompareArgs<T, Q>& args, std::uint32_t number, unsigned list,
                                 std::uint32_t first, std::uint32_t last, std::uint32_t& noted) {
  const RankArgs& rank = args.rank;
  const Q* query = args.queries + std::size_t{number} * args.d;
  const double kth = rank.nearest.keys[(std::size_t{number} + 1) * rank.k - 1];
  const unsigned groups = simt::threads() / kPairLanes;
  for (std::uint32_t start = first; start < last; start += groups) {
    const std::uint32_t mine = start + simt::thread() / kPairLanes;
    const std::uint32_t place = mine < last ? mine : first;
    const std::uint32_t row = rank.rows.number(place);
    const double key = pair_key(args.kind, query, args.rows + std::size_t{row} * args.d, args.d);
    if (mine >= last || simt::lane() % kPairLanes != 0) continue;
    if (!(key <= kth) || rank.rows.hidden.from(number, row)) continue;
    const std::uint32_t at = simt::atomic_add(&noted, 1);
    rank.hits.places_of(list)[at] = place | kHasKey;
    rank.hits.known_of(list)[at] = Known::key(key);
  }
}

// A chunk has as many rows as a list holds, so that none overflows here.
template <class T, class Q>
RESMEM_KERNEL void RESMEM_BOUNDS(kCompareThreads, 4) compare_rows(const CompareArgs<T, Q> args) {
  auto& noted = *simt::shared_memory<std::uint32_t>();
  const unsigned place = simt::block_x();
  const RankArgs& rank = args.rank;
  const unsigned capacity = rank.hits.capacity;
  if (!args.all && rank.hits.counts[place] <= capacity) return;
  const std::uint32_t number = rank.states != nullptr ? rank.states[place].query : place;
  for (std::uint32_t first = 0; first < args.row_count; first += capacity) {
    const std::uint32_t left = args.row_count - first;
    const std::uint32_t last = first + (left < capacity ? left : capacity);
    if (simt::thread() == 0) noted = 0;
    simt::sync_block();
    compare_chunk(args, number, place, first, last, noted);
    simt::sync_block();
    const Ranked list = {rank.rows, rank.hits.places_of(place), rank.hits.known_of(place), noted};
    sort_hits(list);
    merge_hits(rank, list, number);
  }
  if (simt::thread() != 0) return;
  simt::atomic_add(&args.counters->compared, std::uint64_t{args.row_count});
  if (!args.all) simt::atomic_add(&args.counters->given_up, std::uint64_t{1});
}

}  // namespace device
}  // namespace resmem
