// This kernel finds how far the k-th nearest row of each query can be, and drops the hits that are
// farther. A block works on one query.
#pragma once

#include "canonical.cuh"
#include "hits.cuh"
#include "select.h"

namespace resmem {
namespace device {

inline constexpr unsigned kSelectThreads = 256;
inline constexpr unsigned kDigits = 256;  // of the radix selection: a byte at a time

struct SelectArgs {
  QueryState* queries;  // whose reach becomes smaller
  const CodeFacts* rows;
  std::size_t k;
  HitLists hits;  // of which those within reach are kept
  Counters* counters;
};

// What the threads of a block share.
struct Selection {
  std::uint32_t counts[kDigits];
  std::uint32_t prefix;  // digits of the k-th least high end that are known
  std::uint32_t wanted;  // how many with this prefix come before it, and itself
  std::uint32_t kept;    // hits kept so far
  std::uint32_t warp_kept[kSelectThreads / simt::kWarp];
};
inline constexpr std::size_t kSelectShared = sizeof(Selection);

// The hits of one query.
struct HitList {
  std::uint32_t* places;
  Known* known;
  std::uint32_t count;
};

// Replaces the products of new hits by both ends of their distances.
RESMEM_DEVICE void find_ends(const SelectArgs& args, const QueryState& query, const HitList& list) {
  for (unsigned i = query.kept + simt::thread(); i < list.count; i += simt::threads()) {
    const Ends ends = distance_ends(query, args.rows[list.places[i]], list.known[i].product());
    list.known[i] = Known::ends(round_down(ends.low), round_up(ends.high));
  }
}

// Return the ends of the distance of a hit, of which the key or both ends are known.
RESMEM_DEVICE float low_end(const QueryState& query, std::uint32_t place, Known known) {
  if ((place & kHasKey) == 0) return known.low();
  return round_down(query.distance.low(known.key()));
}
RESMEM_DEVICE float high_end(const QueryState& query, std::uint32_t place, Known known) {
  if ((place & kHasKey) == 0) return known.high();
  return round_up(query.distance.high(known.key()));
}

// Finds the digit of the k-th least number, with the digits above it known.
RESMEM_DEVICE void choose_digit(Selection& shared, unsigned shift) {
  if (simt::thread() == 0) {
    std::uint32_t before = 0, digit = 0;
    while (before + shared.counts[digit] < shared.wanted) before += shared.counts[digit++];
    shared.wanted -= before;
    shared.prefix |= digit << shift;
  }
  simt::sync_block();
}

// Returns the k-th least high end of the hits. There are at least k.
RESMEM_DEVICE float kth_high_end(const SelectArgs& args, const QueryState& query,
                                 const HitList& list, Selection& shared) {
  if (simt::thread() == 0) {
    shared.prefix = 0;
    shared.wanted = static_cast<std::uint32_t>(args.k);
  }
  for (unsigned shift = 24;; shift -= 8) {
    for (unsigned i = simt::thread(); i < kDigits; i += simt::threads()) shared.counts[i] = 0;
    simt::sync_block();
    const std::uint32_t prefix = shared.prefix, found = shift == 24 ? 0 : ~0U << (shift + 8);
    for (unsigned i = simt::thread(); i < list.count; i += simt::threads()) {
      const std::uint32_t bits = bits_of(high_end(query, list.places[i], list.known[i]));
      if ((bits & found) == prefix) simt::atomic_add(&shared.counts[bits >> shift & 255], 1);
    }
    simt::sync_block();
    choose_digit(shared, shift);
    if (shift == 0) return number_of(shared.prefix);
  }
}

// Keeps the hits whose low end is within reach, in their order.
RESMEM_DEVICE void keep_within(const QueryState& query, const HitList& list, double reach,
                               Selection& shared) {
  if (simt::thread() == 0) shared.kept = 0;
  simt::sync_block();
  const unsigned warp = simt::thread() / simt::kWarp;
  for (unsigned first = 0; first < list.count; first += simt::threads()) {
    const unsigned i = first + simt::thread();
    const std::uint32_t place = i < list.count ? list.places[i] : 0;
    const Known known = i < list.count ? list.known[i] : Known{0};
    const bool keep = i < list.count && static_cast<double>(low_end(query, place, known)) <= reach;
    const std::uint32_t votes = simt::vote(keep);
    if (simt::lane() == 0) shared.warp_kept[warp] = simt::bit_count(votes);
    simt::sync_block();  // all hits of this turn are read, and every warp has counted
    std::uint32_t to = shared.kept + simt::bit_count(votes & simt::lanes_before());
    for (unsigned w = 0; w < warp; ++w) to += shared.warp_kept[w];
    if (keep) {
      list.places[to] = place;
      list.known[to] = known;
    }
    simt::sync_block();
    if (simt::thread() == simt::threads() - 1) shared.kept = to + (keep ? 1 : 0);
    simt::sync_block();
  }
}

// Lists that overflowed stay as they are. Those of queries with fewer than k hits are kept whole.
RESMEM_KERNEL void RESMEM_BOUNDS(kSelectThreads, 4) tighten_reach(const SelectArgs args) {
  auto& shared = *simt::shared_memory<Selection>();
  const unsigned at = simt::block_x(), count = args.hits.counts[at];
  const QueryState query = args.queries[at];
  const bool whole = count<args.k, overflowed = count> args.hits.capacity;
  const HitList list = {args.hits.places_of(at), args.hits.known_of(at), count};
  if (!overflowed) find_ends(args, query, list);
  simt::sync_block();
  double reach = query.reach;
  float near = query.near;
  if (!overflowed && !whole) {
    near = kth_high_end(args, query, list, shared);
    const double found = query.distance.reach(static_cast<double>(near));
    reach = found < reach ? found : reach;
    keep_within(query, list, reach, shared);
  }
  simt::sync_block();
  if (simt::thread() != 0) return;
  const std::uint32_t kept = overflowed || whole ? count : shared.kept;
  simt::atomic_add(&args.counters->hits, count - query.kept);
  args.queries[at].reach = reach;
  args.queries[at].near = near;
  args.queries[at].kept = kept;
  args.hits.counts[at] = kept;
}

}  // namespace device
}  // namespace resmem
