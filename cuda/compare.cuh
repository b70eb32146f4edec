// These kernels compare queries with every row by canonical keys, where no filter can: queries
// whose lists overflowed, rows that are few, were not coded or are listed, and many neighbours. A
// block works on one query and a share of the rows; the nearest of all shares are merged
// afterwards.
#pragma once

#include "rank.cuh"
#include "select.h"

namespace resmem {
namespace device {

inline constexpr unsigned kCompareThreads = 256;

template <class T, class Q>
struct CompareArgs {
  const Q* queries;         // (queries, d), by number
  const T* rows;            // (rows, d)
  std::uint32_t row_count;  // those that are compared
  unsigned d;
  KeyKind kind;
  bool all;         // whether all queries are compared, and not only those whose lists overflowed
  unsigned shares;  // of the rows, and lists, that each query has; 1 unless all are compared
  const std::int8_t *query_codes, *row_codes;  // by place, of `depth`; null if all are compared
  unsigned depth;
  RankArgs rank;            // its lists have room for more hits than k, or than rows there are
  std::uint32_t* compared;  // (queries * shares,) hits that are left in each list
  Counters* counters;
};

// The work of a block.
struct Share {
  unsigned list;
  std::uint32_t query;        // its number
  std::uint32_t first, last;  // places of the rows
};

// Tells whether the lists of this place are to be filled, or were.
template <class T, class Q>
RESMEM_DEVICE bool is_compared(const CompareArgs<T, Q>& args, unsigned place) {
  return args.all || args.rank.hits.counts[place] > args.rank.hits.capacity;
}

// Returns the product of the codes of a query and a row, which eight lanes find together.
RESMEM_DEVICE std::int32_t code_product(const std::int8_t* query, const std::int8_t* row,
                                        unsigned depth) {
  constexpr unsigned kBytes = 16;
  std::int32_t sum = 0;
  for (unsigned i = simt::lane() % kPairLanes * kBytes; i < depth; i += kPairLanes * kBytes) {
    std::uint32_t a[4], b[4];
    simt::load_words(a, query + i);
    simt::load_words(b, row + i);
    RESMEM_UNROLL
    for (unsigned word = 0; word < 4; ++word)
      sum = simt::multiply_four_bytes(a[word], b[word], sum);
  }
  for (unsigned bit = kPairLanes / 2; bit > 0; bit /= 2) sum += simt::shuffle_xor(sum, bit);
  return sum;
}

// Tells whether a row may come no later than a k-th so far, which its codes rule out or not. All
// lanes of a warp call it.
template <class T, class Q>
RESMEM_DEVICE bool may_be_near(const CompareArgs<T, Q>& args, unsigned list, std::uint32_t place,
                               double kth) {
  if (args.row_codes == nullptr) return true;
  const QueryState& state = args.rank.states[list];
  const std::size_t depth = args.depth;
  const std::int32_t product =
      code_product(args.query_codes + list * depth, args.row_codes + place * depth, args.depth);
  const double found = kth < __builtin_inf() ? state.distance.high(kth) : kth;
  const double reach = found < state.reach ? found : state.reach;
  return distance_ends(state, args.rank.rows.facts[place], product).low <= reach;
}

// Notes rows that come no later than a k-th so far.
template <class T, class Q>
RESMEM_DEVICE void compare_chunk(const CompareArgs<T, Q>& args, const Share& share,
                                 std::uint32_t first, std::uint32_t last, double kth,
                                 std::uint32_t& noted, std::uint64_t& compared) {
  const RankArgs& rank = args.rank;
  const Q* query = args.queries + std::size_t{share.query} * args.d;
  const unsigned groups = simt::threads() / kPairLanes;
  for (std::uint32_t start = first; start < last; start += groups) {
    const std::uint32_t mine = start + simt::thread() / kPairLanes;
    const std::uint32_t place = mine < last ? mine : first;
    const bool near = may_be_near(args, share.list, place, kth), asked = near && mine < last;
    if (simt::vote(asked) == 0) continue;  // with all lanes of the warp
    const std::uint32_t row = rank.rows.number(place);
    const double key = pair_key(args.kind, query, args.rows + std::size_t{row} * args.d, args.d);
    if (!asked || simt::lane() % kPairLanes != 0) continue;
    ++compared;
    if (!(key <= kth) || rank.rows.hidden.from(share.query, row)) continue;
    const std::uint32_t at = simt::atomic_add(&noted, 1);
    rank.hits.places_of(share.list)[at] = place | kHasKey;
    rank.hits.known_of(share.list)[at] = Known::key(key);
  }
}

// Leaves the nearest rows of a share in its list, in order, and returns how many there are. A chunk
// has as many rows as the list has room for behind those.
template <class T, class Q>
RESMEM_DEVICE std::uint32_t compare_share(const CompareArgs<T, Q>& args, const Share& share,
                                          std::uint32_t& noted, std::uint64_t& compared) {
  const RankArgs& rank = args.rank;
  const auto k =
      static_cast<std::uint32_t>(rank.k < rank.hits.capacity ? rank.k : rank.hits.capacity - 1);
  double kth = rank.nearest.keys[(std::size_t{share.query} + 1) * rank.k - 1];
  Ranked list = {rank.rows, rank.hits.places_of(share.list), rank.hits.known_of(share.list), 0};
  for (std::uint32_t first = share.first; first < share.last;) {
    const std::uint32_t room = rank.hits.capacity - list.count, left = share.last - first;
    const std::uint32_t last = first + (left < room ? left : room);
    if (simt::thread() == 0) noted = list.count;
    simt::sync_block();
    compare_chunk(args, share, first, last, kth, noted, compared);
    simt::sync_block();
    list.count = noted;
    sort_hits(list);
    if (list.count >= k) {
      list.count = k;
      kth = list.key(k - 1) < kth ? list.key(k - 1) : kth;
    }
    first = last;
    simt::sync_block();  // all have read how many were noted, and the k-th
  }
  return list.count;
}

template <class T, class Q>
RESMEM_KERNEL void RESMEM_BOUNDS(kCompareThreads, 2) compare_rows(const CompareArgs<T, Q> args) {
  auto& noted = *simt::shared_memory<std::uint32_t>();
  const unsigned list = simt::block_x(), place = list / args.shares;
  if (!is_compared(args, place)) return;
  const std::uint64_t number = list % args.shares;
  const auto end = [&](std::uint64_t share) {
    return static_cast<std::uint32_t>(share * args.row_count / args.shares);
  };
  const QueryState* states = args.rank.states;
  const Share share = {list, states != nullptr ? states[place].query : place, end(number),
                       end(number + 1)};
  std::uint64_t compared = 0;  // keys that this thread's lanes have found
  const std::uint32_t left = compare_share(args, share, noted, compared);
  simt::atomic_add(&args.counters->compared, compared);
  if (simt::thread() != 0) return;
  args.compared[list] = left;
  if (!args.all) simt::atomic_add(&args.counters->given_up, std::uint64_t{1});
}

// Merges what compare_rows() left of each share into the nearest rows. A block works on one query.
template <class T, class Q>
RESMEM_KERNEL void RESMEM_BOUNDS(kRankThreads, 8) merge_shares(const CompareArgs<T, Q> args) {
  const unsigned place = simt::block_x();
  if (!is_compared(args, place)) return;
  const RankArgs& rank = args.rank;
  const std::uint32_t query = rank.states != nullptr ? rank.states[place].query : place;
  for (unsigned share = 0; share < args.shares; ++share) {
    const unsigned list = place * args.shares + share;
    merge_hits(
        rank,
        Ranked{rank.rows, rank.hits.places_of(list), rank.hits.known_of(list), args.compared[list]},
        query);
  }
}

}  // namespace device
}  // namespace resmem
