// Rows that lie together in memory, and what orders their distances.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numbers.h"

namespace resmem {

class RowIndex;

enum class Metric { euclidean, sqeuclidean, cosine, inner_product };

inline bool is_euclidean(Metric metric) {
  return metric == Metric::euclidean || metric == Metric::sqeuclidean;
}

// Rows that lie together in memory; a memory is a list of these. Only `died` ever changes.
struct Segment {
  Numbers keys;  // (n, d) row-major, finite
  std::size_t n = 0;
  const std::int64_t* ids = nullptr;  // n of them, or none: first_id, first_id + 1, ..
  std::int64_t first_id = 0;
  // n versions at which the rows were removed (0: never), or none if every row lives. Another
  // thread may mark rows with versions to come meanwhile.
  const std::int64_t* died = nullptr;
  double max_abs = 0;               // largest |value| of the keys
  const RowIndex* index = nullptr;  // of the first rows (index/row_index.h), or none

  std::int64_t id(std::size_t row) const { return ids != nullptr ? ids[row] : id_after(row); }
  std::int64_t id_after(std::size_t row) const {  // unsigned, so that it wraps whatever a file says
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(first_id) + row);
  }
  bool dead(std::size_t row, std::int64_t version) const {
    if (died == nullptr) return false;
    const std::int64_t at = __atomic_load_n(died + row, __ATOMIC_RELAXED);
    return at > 0 && at <= version;
  }
};

}  // namespace resmem
