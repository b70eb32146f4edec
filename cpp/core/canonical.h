// The order that decides: canonical keys, and the exact end of every search.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../kernels/kernel_table.h"
#include "row_set.h"

namespace resmem {

struct Neighbour {
  double key;
  std::int64_t id;
  std::size_t position;
  bool operator<(const Neighbour& other) const {
    return key < other.key || (key == other.key && id < other.id);
  }
};

// KernelTable::squared_distance for dimensions known to the compiler, and so few that the call
// would cost more than the sum.
template <std::size_t kD>
inline double squared_distance(const float* q, const float* x) {
  double p[kPartials] = {};
  for (std::size_t i = 0; i < kD; ++i) {
    const double t = static_cast<double>(q[i]) - static_cast<double>(x[i]);
    p[i % kPartials] += t * t;
  }
  return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

// Canonical order keys of one query (CONTRACT.md, "Distances and order").
class CanonicalKey {
 public:
  CanonicalKey(const SearchRequest& request, const KernelTable& kernels, std::size_t query)
      : kernels_(kernels),
        metric_(request.metric),
        d_(request.d),
        query_(request.queries + query * d_) {
    if (metric_ == Metric::cosine) square_ = kernels_.dot(query_, query_, d_);
  }

  // Finite, or +inf of a row that is not (a damaged file): such rows are no neighbours.
  double operator()(const float* row) const {
    const double key = of_finite(row);
    return std::isfinite(key) ? key : std::numeric_limits<double>::infinity();
  }
  friend void canonical_keys(const CanonicalKey* const* of, const float* const* rows,
                             std::size_t count, double* keys);

 private:
  bool is_distance() const { return metric_ != Metric::inner_product && metric_ != Metric::cosine; }
  double of_finite(const float* row) const {
    switch (metric_) {
      case Metric::inner_product:
        return -kernels_.dot(query_, row, d_);
      case Metric::cosine: {
        const double product = square_ * kernels_.dot(row, row, d_);
        if (product == 0) return 1;
        const double c = 1 - kernels_.dot(query_, row, d_) / std::sqrt(product);
        return c < 0 ? 0 : c;  // NaN stays
      }
      default:
        return kernels_.squared_distance(query_, row, d_);
    }
  }

  const KernelTable& kernels_;
  Metric metric_;
  std::size_t d_;
  const float* query_;
  double square_ = 0;
};

// of[i] of rows[i] for i < count <= 8, all of one metric: distances go together.
inline void canonical_keys(const CanonicalKey* const* of, const float* const* rows,
                           std::size_t count, double* keys) {
  const float* queries[8];
  const bool together = count > 0 && of[0]->is_distance();
  for (std::size_t i = 0; i < count; ++i) {
    queries[i] = of[i]->query_;
    if (!together) keys[i] = (*of[i])(rows[i]);
  }
  if (!together) return;
  of[0]->kernels_.squared_distances(queries, rows, count, of[0]->d_, keys);
  for (std::size_t i = 0; i < count; ++i)
    if (!std::isfinite(keys[i])) keys[i] = std::numeric_limits<double>::infinity();
}

// Keeps the k nearest, in any order.
inline void keep_nearest(std::vector<Neighbour>& found, std::size_t k) {
  if (found.size() <= k) return;
  const auto end = found.begin() + static_cast<std::ptrdiff_t>(k);
  std::nth_element(found.begin(), end - 1, found.end());
  found.erase(end, found.end());
}

// Sorts the neighbours found, keeps the first k, pads, and turns keys into values.
// Positions may be left out (nullptr).
inline void write_neighbours(std::vector<Neighbour>& found, Metric metric, std::size_t k,
                             double* values, std::int64_t* ids, std::int64_t* positions) {
  std::size_t kept = std::min(k, found.size());
  const auto last = found.begin() + static_cast<std::ptrdiff_t>(kept);
  if (last != found.end()) std::nth_element(found.begin(), last, found.end());
  std::sort(found.begin(), last);
  const double infinity = std::numeric_limits<double>::infinity();
  while (kept > 0 && found[kept - 1].key == infinity) --kept;
  for (std::size_t j = 0; j < k; ++j) {
    double value = metric == Metric::inner_product ? -infinity : infinity;
    if (j < kept) {
      const double key = found[j].key;
      value = metric == Metric::euclidean       ? std::sqrt(key)
              : metric == Metric::inner_product ? 0.0 - key
                                                : key;
    }
    values[j] = value;
    ids[j] = j < kept ? found[j].id : -1;
    if (positions != nullptr)
      positions[j] = j < kept ? static_cast<std::int64_t>(found[j].position) : -1;
  }
}

}  // namespace resmem
