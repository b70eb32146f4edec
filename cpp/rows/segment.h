// Segments of rows, and the metrics that order them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "among_rows.h"
#include "numbers.h"

namespace resmem {

class RowIndex;

enum class Metric { euclidean, sqeuclidean, cosine, inner_product };

inline bool is_euclidean(Metric metric) {
  return metric == Metric::euclidean || metric == Metric::sqeuclidean;
}

// Rows that lie together in memory. A memory is a list of segments. Only `died` ever changes.
struct Segment {
  Numbers keys;  // (n, d) row-major, finite
  std::size_t n = 0;
  const std::int64_t* ids = nullptr;  // n ids, or null: they are first_id, first_id + 1, ..
  std::int64_t first_id = 0;
  // These are the versions at which the n rows were removed (0: never), or null if every row lives.
  // Another thread may meanwhile mark rows with later versions.
  const std::int64_t* died = nullptr;
  const std::int64_t* times = nullptr;   // n, or null: no search asks for them
  const std::int64_t* groups = nullptr;  // n, -1 for none, or null: no row has one
  RowMask among;                         // no query may see any other row
  double max_abs = 0;                    // largest |value| of the keys
  const RowIndex* index = nullptr;       // covers the first rows (index/row_index.h), or null

  std::int64_t id(std::size_t row) const { return ids != nullptr ? ids[row] : id_after(row); }
  std::int64_t id_after(std::size_t row) const {  // unsigned, so that it wraps whatever a file says
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(first_id) + row);
  }
  // Returns the segment without its first rows.
  Segment after(std::size_t rows, std::size_t d) const {
    Segment rest = *this;
    rest.index = nullptr;
    rest.keys.data = keys.at(rows * d);
    rest.n -= rows;
    rest.first_id = id_after(rows);
    if (ids != nullptr) rest.ids += rows;
    if (died != nullptr) rest.died += rows;
    if (times != nullptr) rest.times += rows;
    if (groups != nullptr) rest.groups += rows;
    rest.among.first += rows;
    return rest;
  }
  std::int64_t group(std::size_t row) const { return groups != nullptr ? groups[row] : -1; }
  bool dead(std::size_t row, std::int64_t version) const {
    if (died == nullptr) return false;
    const std::int64_t at = __atomic_load_n(died + row, __ATOMIC_RELAXED);
    return at > 0 && at <= version;
  }
};

}  // namespace resmem
