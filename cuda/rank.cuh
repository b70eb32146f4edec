// Puts rows with canonical keys in their order and keeps the k nearest of all that were searched. A
// block works on one query.
#pragma once

#include "canonical.cuh"
#include "hits.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kRankThreads = 128;

// The nearest rows so far, (queries, k) each, in order; where there are fewer, the key +inf and the
// id -1 stand in for those that lack.
struct Nearest {
  double* keys;
  std::int64_t* ids;
  std::int64_t* positions;  // among all rows of the search; may be null
};

// Rows that were searched together, and where they lie among all.
struct Rows {
  // By place: what was coded, or the positions of rows that are listed. Without either, places are
  // row numbers.
  const CodeFacts* facts;
  const std::int64_t* listed;
  Hidden hidden;                // knows their ids
  std::int64_t first_position;  // of row 0

  RESMEM_DEVICE std::uint32_t number(std::uint32_t place) const {
    place &= ~kHasKey;
    if (listed != nullptr) return static_cast<std::uint32_t>(listed[place] - first_position);
    return facts != nullptr ? facts[place].vector : place;
  }
  RESMEM_DEVICE std::int64_t id(std::uint32_t place) const { return hidden.id(number(place)); }
};

// The hits of a query, whose keys are known, in their order once they are sorted.
struct Ranked {
  Rows rows;
  std::uint32_t* places;
  Known* known;
  std::uint32_t count;

  RESMEM_DEVICE double key(std::uint32_t i) const { return known[i].key(); }
  RESMEM_DEVICE std::int64_t id(std::uint32_t i) const { return rows.id(places[i]); }
  // Tells whether hit i comes before hit j.
  RESMEM_DEVICE bool before(std::uint32_t i, std::uint32_t j) const {
    return key(i) < key(j) || (key(i) == key(j) && id(i) < id(j));
  }
  // Tells whether hit i comes before a row with this key and id.
  RESMEM_DEVICE bool before(std::uint32_t i, double its_key, std::int64_t its_id) const {
    return key(i) < its_key || (key(i) == its_key && id(i) < its_id);
  }
};

// Sorts hits by (key, id) in place: a bitonic sort whose comparators all put the smaller one first,
// so that places behind the last hit need not exist (Batcher 1968, with the first comparators of
// each merge mirrored).
RESMEM_DEVICE void sort_hits(const Ranked& list) {
  const auto exchange = [&list](std::uint32_t i, std::uint32_t j) {
    if (j <= i || j >= list.count || !list.before(j, i)) return;
    const std::uint32_t place = list.places[i];
    const Known known = list.known[i];
    list.places[i] = list.places[j];
    list.known[i] = list.known[j];
    list.places[j] = place;
    list.known[j] = known;
  };
  for (std::uint32_t run = 2; run / 2 < list.count; run *= 2) {
    for (std::uint32_t i = simt::thread(); i < list.count; i += simt::threads())
      exchange(i, i ^ (run - 1));
    simt::sync_block();
    for (std::uint32_t step = run / 4; step > 0; step /= 2) {
      for (std::uint32_t i = simt::thread(); i < list.count; i += simt::threads())
        exchange(i, i ^ step);
      simt::sync_block();
    }
  }
}

struct RankArgs {
  Rows rows;
  const QueryState* states;  // or null: places are query numbers
  HitLists hits;             // all of which have keys
  std::size_t k;
  Nearest nearest, spare;  // of the same size; what `spare` holds is lost
};

// Returns how many of the k nearest come before a row with this key and id.
RESMEM_DEVICE std::size_t rank_among_nearest(const Nearest& nearest, std::size_t first,
                                             std::size_t k, double key, std::int64_t id) {
  std::size_t low = 0, high = k;
  while (low < high) {
    const std::size_t middle = (low + high) / 2, at = first + middle;
    const bool before = nearest.keys[at] < key ||
                        (nearest.keys[at] == key && nearest.ids[at] >= 0 && nearest.ids[at] < id);
    low = before ? middle + 1 : low;
    high = before ? high : middle;
  }
  return low;
}

RESMEM_DEVICE std::uint32_t rank_among_hits(const Ranked& list, double key, std::int64_t id) {
  std::uint32_t low = 0, high = list.count;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    const bool before = list.before(middle, key, id);
    low = before ? middle + 1 : low;
    high = before ? high : middle;
  }
  return low;
}

RESMEM_DEVICE void put(const Nearest& to, std::size_t at, double key, std::int64_t id,
                       std::int64_t position) {
  to.keys[at] = key;
  to.ids[at] = id;
  if (to.positions != nullptr) to.positions[at] = position;
}

// Merges the sorted hits of a query into its k nearest rows. Each row goes where its ranks in both
// lists say; rows that are not finite are none.
RESMEM_DEVICE void merge_hits(const RankArgs& args, const Ranked& list, std::size_t query) {
  const std::size_t first = query * args.k;
  const Nearest &from = args.nearest, &to = args.spare;
  for (std::size_t j = simt::thread(); j < args.k; j += simt::threads())
    put(to, first + j, __builtin_inf(), -1, -1);
  simt::sync_block();
  for (std::uint32_t i = simt::thread(); i < list.count && i < args.k; i += simt::threads()) {
    const double key = list.key(i);
    const std::int64_t id = list.id(i);
    const std::size_t at = i + rank_among_nearest(from, first, args.k, key, id);
    const std::int64_t number = list.rows.number(list.places[i]);
    if (at < args.k && key < __builtin_inf())
      put(to, first + at, key, id, list.rows.first_position + number);
  }
  for (std::size_t j = simt::thread(); j < args.k; j += simt::threads()) {
    const std::int64_t id = from.ids[first + j];
    if (id < 0) continue;
    const double key = from.keys[first + j];
    const std::size_t at = j + rank_among_hits(list, key, id);
    const std::int64_t position = from.positions != nullptr ? from.positions[first + j] : -1;
    if (at < args.k) put(to, first + at, key, id, position);
  }
  simt::sync_block();
  for (std::size_t j = simt::thread(); j < args.k; j += simt::threads())
    put(from, first + j, to.keys[first + j], to.ids[first + j],
        to.positions != nullptr ? to.positions[first + j] : -1);
  simt::sync_block();
}

// Lists that overflowed stay as they are.
RESMEM_KERNEL void RESMEM_BOUNDS(kRankThreads, 8) rank_hits(const RankArgs args) {
  const unsigned at = simt::block_x(), count = args.hits.counts[at];
  if (count > args.hits.capacity) return;
  const Ranked list = {args.rows, args.hits.places_of(at), args.hits.known_of(at), count};
  sort_hits(list);
  merge_hits(args, list, args.states[at].query);
}

// Makes lists of nearest rows empty, and turns the keys of full ones into what is returned.
RESMEM_KERNEL void empty_nearest(Nearest nearest, std::size_t count) {
  const std::size_t i = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (i < count) put(nearest, i, __builtin_inf(), -1, -1);
}

enum class ValueKind { root, key, negated_key };

RESMEM_KERNEL void keys_to_values(Nearest nearest, std::size_t count, ValueKind kind) {
  const std::size_t i = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (i >= count) return;
  const double key = nearest.keys[i];
  nearest.keys[i] = kind == ValueKind::root ? sqrt(key) : kind == ValueKind::key ? key : 0.0 - key;
}

}  // namespace device
}  // namespace resmem
