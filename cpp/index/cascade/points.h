// Makes rows and queries points of a Euclidean space where nearer means a smaller key, so that one
// cascade serves every metric (README.md, "Other metrics").
#pragma once

#include <algorithm>
#include <cmath>

#include "../../kernels/table.h"
#include "../../rows/segment.h"

namespace resmem {

// Turns canonical keys of one query into distances D between exact points, by the bound
// |D^2 - (at_zero + per_key * key)| <= relative * (at_zero + per_key * key) + absolute. A row that
// is longer than all of the cascade's has no point for inner products. For it the sum in brackets
// may be negative, which means nearer than any point.
struct KeyDistance {
  double at_zero = 0, per_key = 1, relative = 0, absolute = 0;

  double low(double key) const { return std::sqrt(std::max(0.0, square(key, -1))); }
  double high(double key) const { return std::sqrt(std::max(0.0, square(key, 1))); }
  // No row whose key is at most the k-th is farther than this, if k rows are no farther than `kth`.
  // Their keys may be off in one direction, and that row's in the other.
  double reach(double kth) const {
    return std::sqrt(kth * kth * (1 + 2 * relative) + 2 * absolute);
  }

 private:
  double square(double key, double sign) const {
    return (at_zero + per_key * key) * (1 + sign * relative) + sign * absolute;
  }
};

struct Points {
  Metric metric = Metric::euclidean;  // stands for sqeuclidean too
  std::size_t d = 0;                  // of rows and queries
  double longest = 0;                 // of inner products: no row is longer

  static Metric ordering(Metric metric) {
    return metric == Metric::sqeuclidean ? Metric::euclidean : metric;
  }
  bool serve(Metric asked) const { return metric == ordering(asked); }
  std::size_t dimensions() const { return d + (metric == Metric::inner_product ? 1 : 0); }

  // Return the point of a row or a query, which is the vector itself or is computed into `out`
  // (dimensions()). `off` becomes the most that it may be away from the exact point. A distance
  // between computed points differs from the one between exact points by at most the sum of both.
  const float* row(const float* x, const KernelTable& kernels, float* out, double* off) const;
  const float* query(const float* x, const KernelTable& kernels, float* out, double* off) const;
  // Returns how the keys of query x become distances.
  KeyDistance distance_of_keys(const float* x, const KernelTable& kernels) const;
};

}  // namespace resmem
