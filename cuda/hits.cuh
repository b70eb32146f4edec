// The lists of rows that queries have hit, and what hides a row from a query.
#pragma once

#include "filter.h"

namespace resmem {
namespace device {

// Lists of hits, one a query. Those that overflow go on counting.
struct HitLists {
  std::uint32_t* counts;  // (queries,) hits that were found, kept or not
  Hit* hits;              // (queries, capacity)
  double* keys;           // (queries, capacity) canonical keys, NaN where not known yet
  unsigned capacity;

  RESMEM_DEVICE Hit* of(unsigned query) const { return hits + std::size_t{query} * capacity; }
  RESMEM_DEVICE double* keys_of(unsigned query) const {
    return keys + std::size_t{query} * capacity;
  }
};

RESMEM_HOST_DEVICE double unknown_key() { return __builtin_nan(""); }
RESMEM_HOST_DEVICE bool is_known(double key) { return key == key; }

// Says which rows are not there for a search, and which ids not for a query.
struct Hidden {
  std::uint32_t rows;       // rows from this number on came later
  const std::int64_t* ids;  // (rows,), or null: they are first_id, first_id + 1, ..
  std::int64_t first_id;
  const std::int64_t* died;      // (rows,) versions of removal, 0 for none; null if every row lives
  std::int64_t version;          // rows removed at this version or before are hidden
  const std::int64_t* excluded;  // (queries, width) ids
  std::size_t width;

  RESMEM_HOST_DEVICE std::int64_t id(std::uint32_t row) const {
    if (ids != nullptr) return ids[row];
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(first_id) + row);  // may wrap
  }
  RESMEM_DEVICE bool from(std::uint32_t query, std::uint32_t row) const {
    if (row >= rows) return true;
    if (died != nullptr && died[row] > 0 && died[row] <= version) return true;
    if (width == 0) return false;
    const std::int64_t* own = excluded + query * width;
    const std::int64_t id_of_row = id(row);
    for (std::size_t i = 0; i < width; ++i)
      if (own[i] == id_of_row) return true;
    return false;
  }
};

}  // namespace device
}  // namespace resmem
