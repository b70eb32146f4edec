// Canonical keys, whose order decides, and the exact end of every search.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../kernels/table.h"
#include "../rows/row_set.h"
#include "request.h"

namespace resmem {

struct Neighbour {
  double key;
  std::int64_t id;
  std::size_t position;
  bool operator<(const Neighbour& other) const {
    return key < other.key || (key == other.key && id < other.id);
  }
};

// Does what ExactKernels::squared_distance does, for dimensions that the compiler knows and that
// are so few that the call would cost more than the sum.
template <std::size_t kD>
inline double squared_distance(const float* q, const float* x) {
  double p[kPartials] = {};
  for (std::size_t i = 0; i < kD; ++i) {
    const double t = static_cast<double>(q[i]) - static_cast<double>(x[i]);
    p[i % kPartials] += t * t;
  }
  return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

// Computes the canonical order keys of one query (CONTRACT.md, "Distances and order").
class CanonicalKey {
 public:
  CanonicalKey(const SearchRequest& request, const KernelTable& kernels, std::size_t query)
      : kernels_(kernels),
        metric_(request.metric),
        d_(request.d),
        query_(request.wide() ? nullptr : request.queries + query * d_),
        query64_(request.wide() ? request.queries64 + query * d_ : nullptr) {
    if (metric_ != Metric::cosine) return;
    square_ = query64_ != nullptr ? dot(query64_, query64_) : dot(query_, query_);
  }

  // Returns the key of a row. It is +inf where the row is not finite, which only a damaged file can
  // hold. Such rows are no neighbours.
  double operator()(const float* row) const { return finite_or_infinite(of(query_, row)); }
  double operator()(const double* row) const { return finite_or_infinite(of(query64_, row)); }
  // Returns the key of a row that is given by its position, or by its number in a segment.
  double at(RowReader& reader, std::size_t position) const {
    return query64_ != nullptr ? (*this)(reader.wide_row(position)) : (*this)(reader.row(position));
  }
  double at(RowReader& reader, const Segment& segment, std::size_t row) const {
    return query64_ != nullptr ? (*this)(reader.wide_rows(segment, row))
                               : (*this)(reader.rows(segment, row, 1));
  }
  friend void canonical_keys(const CanonicalKey* const* of, const float* const* rows,
                             std::size_t count, double* keys);

 private:
  static double finite_or_infinite(double key) {
    return std::isfinite(key) ? key : std::numeric_limits<double>::infinity();
  }
  double dot(const float* a, const float* b) const { return kernels_.exact.dot(a, b, d_); }
  double dot(const double* a, const double* b) const { return kernels_.exact.dot64(a, b, d_); }
  double distance(const float* a, const float* b) const {
    return kernels_.exact.squared_distance(a, b, d_);
  }
  double distance(const double* a, const double* b) const {
    return kernels_.exact.squared_distance64(a, b, d_);
  }
  template <class T>
  double of(const T* query, const T* row) const {
    switch (metric_) {
      case Metric::inner_product:
        return -dot(query, row);
      case Metric::cosine: {
        const double product = square_ * dot(row, row);
        if (product == 0) return 1;
        const double c = 1 - dot(query, row) / std::sqrt(product);
        return c < 0 ? 0 : c;  // NaN must stay NaN
      }
      case Metric::euclidean:
      case Metric::sqeuclidean:
        break;
    }
    return distance(query, row);
  }

  const KernelTable& kernels_;
  Metric metric_;
  std::size_t d_;
  const float* query_;  // one of the two is set
  const double* query64_;
  double square_ = 0;
};

// keys[i] becomes the key of the float32 row rows[i] by of[i], for i < count <= 8. All keys are of
// one metric. Squared distances are computed together.
inline void canonical_keys(const CanonicalKey* const* of, const float* const* rows,
                           std::size_t count, double* keys) {
  const float* queries[8];
  const bool together = count > 0 && is_euclidean(of[0]->metric_);
  for (std::size_t i = 0; i < count; ++i) {
    queries[i] = of[i]->query_;
    if (!together) keys[i] = (*of[i])(rows[i]);
  }
  if (!together) return;
  of[0]->kernels_.exact.squared_distances(queries, rows, count, of[0]->d_, keys);
  for (std::size_t i = 0; i < count; ++i)
    if (!std::isfinite(keys[i])) keys[i] = std::numeric_limits<double>::infinity();
}

// Keeps the k nearest of what was found, in any order.
inline void keep_nearest(std::vector<Neighbour>& found, std::size_t k) {
  if (found.size() <= k) return;
  const auto end = found.begin() + static_cast<std::ptrdiff_t>(k);
  std::nth_element(found.begin(), end - 1, found.end());
  found.erase(end, found.end());
}

// Sorts the neighbours found, keeps the first k, turns keys into values, and pads. Ids and
// positions may be left out (nullptr).
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
    if (ids != nullptr) ids[j] = j < kept ? found[j].id : -1;
    if (positions != nullptr)
      positions[j] = j < kept ? static_cast<std::int64_t>(found[j].position) : -1;
  }
}

}  // namespace resmem
