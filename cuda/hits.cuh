// The lists of rows that queries have hit, and what hides a row from a query.
#pragma once

#include "../cpp/rows/among_rows.h"
#include "filter.h"

namespace resmem {
namespace device {

// What is known of a hit: at first the product of its codes and the query's, then both ends of its
// distance, and at last perhaps its canonical key.
struct Known {
  std::uint64_t bits;

  RESMEM_HOST_DEVICE static Known product(std::int32_t product) {
    return {static_cast<std::uint32_t>(product)};
  }
  RESMEM_HOST_DEVICE static Known ends(float low, float high) {
    return {std::uint64_t{bits_of(high)} << 32 | bits_of(low)};
  }
  RESMEM_HOST_DEVICE static Known key(double key) {
    Known known;
    memcpy(&known.bits, &key, sizeof key);
    return known;
  }
  RESMEM_HOST_DEVICE std::int32_t product() const {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(bits));
  }
  RESMEM_HOST_DEVICE float low() const { return number_of(static_cast<std::uint32_t>(bits)); }
  RESMEM_HOST_DEVICE float high() const {
    return number_of(static_cast<std::uint32_t>(bits >> 32));
  }
  RESMEM_HOST_DEVICE double key() const { return number_of_bits(bits); }
};

// The place of a row, and whether its canonical key is known.
inline constexpr std::uint32_t kHasKey = 1U << 31;
inline constexpr std::size_t kMostPartRows = std::size_t{1} << 30;  // so that places leave that bit

// Lists of hits, one a query: first those that the last selection kept, whose ends or keys are
// known, then new ones with their products. Lists that overflow go on counting.
struct HitLists {
  std::uint32_t* counts;  // (queries,) hits that were found, kept or not
  std::uint32_t* places;  // (queries, capacity), kHasKey set where the key is known
  Known* known;           // (queries, capacity)
  unsigned capacity;

  RESMEM_DEVICE std::uint32_t* places_of(unsigned query) const {
    return places + std::size_t{query} * capacity;
  }
  RESMEM_DEVICE Known* known_of(unsigned query) const {
    return known + std::size_t{query} * capacity;
  }
};

// Lists of numbers, one a query.
struct QueryLists {
  const std::int64_t* numbers;  // (queries, width)
  std::size_t width;            // 0: there are none

  RESMEM_DEVICE bool hold(std::uint32_t query, std::int64_t number) const {
    const std::int64_t* own = numbers + query * width;
    for (std::size_t i = 0; i < width; ++i)
      if (own[i] == number) return true;
    return false;
  }
};

// Says which rows are not there for a search, and which a query does not see (cpp/CONTRACT.md,
// "Whom a query may ask").
struct Hidden {
  std::uint32_t rows;       // rows from this number on came later
  const std::int64_t* ids;  // (rows,), or null: they are first_id, first_id + 1, ..
  std::int64_t first_id;
  const std::int64_t* died;    // (rows,) versions of removal, 0 for none; null if every row lives
  std::int64_t version;        // rows removed at this version or before are hidden
  RowMask among;               // no query sees any other row
  const std::int64_t* times;   // (rows,)
  const std::int64_t* before;  // (queries,): one sees rows of smaller times alone; or null
  const std::int64_t* groups;  // (rows,), -1 for none; null if no row has one
  QueryLists excluded, excluded_groups;  // of ids, and of groups

  RESMEM_HOST_DEVICE std::int64_t id(std::uint32_t row) const {
    if (ids != nullptr) return ids[row];
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(first_id) + row);  // may wrap
  }
  RESMEM_DEVICE bool from(std::uint32_t query, std::uint32_t row) const {
    if (row >= rows || !among.holds(row)) return true;
    if (died != nullptr && died[row] > 0 && died[row] <= version) return true;
    if (before != nullptr && times[row] >= before[query]) return true;
    if (groups != nullptr && groups[row] >= 0 && excluded_groups.hold(query, groups[row]))
      return true;
    return excluded.width > 0 && excluded.hold(query, id(row));
  }
};

}  // namespace device
}  // namespace resmem
