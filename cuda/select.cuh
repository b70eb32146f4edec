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

// Returns both ends of the distance of a hit: from its canonical key where that is known.
RESMEM_DEVICE Ends ends_of(const QueryState& query, const CodeFacts* rows, const Hit& hit,
                           double key) {
  if (is_known(key)) return {query.distance.low(key), query.distance.high(key)};
  return distance_ends(query, rows[hit.place], hit.product);
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

// Returns the k-th least high end of the hits, rounded up to float32, as bits. There are at least
// k.
RESMEM_DEVICE std::uint32_t kth_high_end(const SelectArgs& args, unsigned place, unsigned count,
                                         Selection& shared) {
  if (simt::thread() == 0) {
    shared.prefix = 0;
    shared.wanted = static_cast<std::uint32_t>(args.k);
  }
  const QueryState query = args.queries[place];
  const Hit* hits = args.hits.of(place);
  const double* keys = args.hits.keys_of(place);
  for (unsigned shift = 24;; shift -= 8) {
    for (unsigned i = simt::thread(); i < kDigits; i += simt::threads()) shared.counts[i] = 0;
    simt::sync_block();
    const std::uint32_t prefix = shared.prefix, known = shift == 24 ? 0 : ~0U << (shift + 8);
    for (unsigned i = simt::thread(); i < count; i += simt::threads()) {
      const Ends ends = ends_of(query, args.rows, hits[i], keys[i]);
      const std::uint32_t bits = bits_of(round_up(ends.high));
      if ((bits & known) == prefix) simt::atomic_add(&shared.counts[bits >> shift & 255], 1);
    }
    simt::sync_block();
    choose_digit(shared, shift);
    if (shift == 0) return shared.prefix;
  }
}

// Keeps the hits whose low end is within reach, in their order.
RESMEM_DEVICE void keep_within(const SelectArgs& args, unsigned place, unsigned count, double reach,
                               Selection& shared) {
  if (simt::thread() == 0) shared.kept = 0;
  simt::sync_block();
  const QueryState query = args.queries[place];
  Hit* hits = args.hits.of(place);
  double* keys = args.hits.keys_of(place);
  const unsigned warp = simt::thread() / simt::kWarp;
  for (unsigned first = 0; first < count; first += simt::threads()) {
    const unsigned i = first + simt::thread();
    const Hit hit = i < count ? hits[i] : Hit{0, 0};
    const double key = i < count ? keys[i] : 0;
    const bool keep = i < count && ends_of(query, args.rows, hit, key).low <= reach;
    const std::uint32_t votes = simt::vote(keep);
    if (simt::lane() == 0) shared.warp_kept[warp] = simt::bit_count(votes);
    simt::sync_block();  // all hits of this turn are read, and every warp has counted
    std::uint32_t to = shared.kept + simt::bit_count(votes & simt::lanes_before());
    for (unsigned w = 0; w < warp; ++w) to += shared.warp_kept[w];
    if (keep) {
      hits[to] = hit;
      keys[to] = key;
    }
    simt::sync_block();
    if (simt::thread() == simt::threads() - 1) shared.kept = to + (keep ? 1 : 0);
    simt::sync_block();
  }
}

// Adds the hits that came since the last selection to the counters.
RESMEM_DEVICE void count_new_hits(const SelectArgs& args, unsigned place, unsigned count) {
  if (simt::thread() != 0) return;
  QueryState& query = args.queries[place];
  simt::atomic_add(&args.counters->hits, count - query.kept);
  query.kept = count;
}

// Lists that overflowed, and queries with fewer than k hits, stay as they are.
RESMEM_KERNEL void RESMEM_BOUNDS(kSelectThreads, 4) tighten_reach(const SelectArgs args) {
  auto& shared = *simt::shared_memory<Selection>();
  const unsigned place = simt::block_x(), count = args.hits.counts[place];
  count_new_hits(args, place, count);
  if (count < args.k || count > args.hits.capacity) return;
  const float near = number_of(kth_high_end(args, place, count, shared));
  const double before = args.queries[place].reach;
  const double found = args.queries[place].distance.reach(static_cast<double>(near));
  const double reach = found < before ? found : before;
  keep_within(args, place, count, reach, shared);
  simt::sync_block();
  if (simt::thread() != 0) return;
  QueryState& query = args.queries[place];
  query.reach = reach;
  query.near = near;
  query.kept = shared.kept;
  args.hits.counts[place] = shared.kept;
}

}  // namespace device
}  // namespace resmem
