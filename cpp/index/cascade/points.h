// Makes rows and queries points of a Euclidean space where nearer means a smaller key, so that one
// cascade serves every metric (README.md, "Other metrics").
#pragma once

#include "../../base/key_distance.h"
#include "../../kernels/table.h"
#include "../../rows/segment.h"

namespace resmem {

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
