// This kernel finds how far the k-th nearest row of each query can be, and drops the hits that are
// farther. A block works on one query.
#pragma once

#include "select.h"

namespace resmem {
namespace device {

inline constexpr unsigned kSelectThreads = 256;
inline constexpr unsigned kDigits = 256;  // of the radix selection: a byte at a time
struct SelectArgs {
  QueryFacts* queries;  // whose reach becomes smaller
  const TileFacts* query_tiles;
  const CodeFacts* rows;
  unsigned depth;
  unsigned k;
  unsigned capacity;
  std::uint32_t* counts;  // (queries,) hits; afterwards those that were kept
  Hit* hits;              // (queries, capacity)
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

RESMEM_DEVICE Ends ends_of(const SelectArgs& args, unsigned query, const Hit& hit) {
  const int exponent = args.query_tiles[query / kTile].exponent;
  const CodeFacts& row = args.rows[hit.row];
  return distance_ends(args.queries[query], exponent, row,
                       product_of(hit.score, row, exponent, args.depth));
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
RESMEM_DEVICE std::uint32_t kth_high_end(const SelectArgs& args, unsigned query, const Hit* hits,
                                         unsigned count, Selection& shared) {
  if (simt::thread() == 0) {
    shared.prefix = 0;
    shared.wanted = args.k;
  }
  for (unsigned shift = 24;; shift -= 8) {
    for (unsigned i = simt::thread(); i < kDigits; i += simt::threads()) shared.counts[i] = 0;
    simt::sync_block();
    const std::uint32_t prefix = shared.prefix, known = shift == 24 ? 0 : ~0U << (shift + 8);
    for (unsigned i = simt::thread(); i < count; i += simt::threads()) {
      const std::uint32_t bits = bits_rounded_up(ends_of(args, query, hits[i]).high);
      if ((bits & known) == prefix) simt::atomic_add(&shared.counts[bits >> shift & 255], 1);
    }
    simt::sync_block();
    choose_digit(shared, shift);
    if (shift == 0) return shared.prefix;
  }
}

// Keeps the hits whose low end is within reach, in their order.
RESMEM_DEVICE void keep_within(const SelectArgs& args, unsigned query, Hit* hits, unsigned count,
                               double reach, Selection& shared) {
  if (simt::thread() == 0) shared.kept = 0;
  simt::sync_block();
  const unsigned warp = simt::thread() / simt::kWarp;
  for (unsigned first = 0; first < count; first += simt::threads()) {
    const unsigned i = first + simt::thread();
    const Hit hit = i < count ? hits[i] : Hit{0, 0};
    const bool keep = i < count && ends_of(args, query, hit).low <= reach;
    const std::uint32_t votes = simt::vote(keep);
    if (simt::lane() == 0) shared.warp_kept[warp] = simt::bit_count(votes);
    simt::sync_block();  // all hits of this turn are read, and every warp has counted
    std::uint32_t to = shared.kept + simt::bit_count(votes & ((1U << simt::lane()) - 1));
    for (unsigned w = 0; w < warp; ++w) to += shared.warp_kept[w];
    if (keep) hits[to] = hit;
    simt::sync_block();
    if (simt::thread() == simt::threads() - 1) shared.kept = to + (keep ? 1 : 0);
    simt::sync_block();
  }
}

// Lists that overflowed, and queries with fewer than k hits, stay as they are.
RESMEM_KERNEL void RESMEM_BOUNDS(kSelectThreads, 4) tighten_reach(const SelectArgs args) {
  auto& shared = *simt::shared_memory<Selection>();
  const unsigned query = simt::block_x(), count = args.counts[query];
  if (count < args.k || count > args.capacity) return;
  Hit* hits = args.hits + std::size_t{query} * args.capacity;
  const double found = number_of(kth_high_end(args, query, hits, count, shared));
  const double before = args.queries[query].reach, reach = found < before ? found : before;
  keep_within(args, query, hits, count, reach, shared);
  simt::sync_block();
  if (simt::thread() == 0) {
    args.counts[query] = shared.kept;
    args.queries[query].reach = reach;
  }
}

}  // namespace device
}  // namespace resmem
