#include "points.h"

#include <algorithm>
#include <cmath>

namespace resmem {
namespace {

// Writes x / |x|, or 0 for a zero vector, and returns its error. The norm, its root, the quotient
// and the product stay within 2 theta, float32 adds u, and what underflows eta. Every similarity to
// a zero vector counts as 0: the exact points lie sqrt(2) apart, the computed ones 1 or, if both
// are zero, 0. Half of sqrt(2) each covers that.
double unit(const float* x, std::size_t d, const KernelTable& kernels, float* out) {
  const double square = kernels.exact.dot(x, x, d);
  kernels.filter.stage_unit(x, square > 0 ? 1 / std::sqrt(square) : 0, out, d);
  if (!(square > 0)) return 0.7072;
  return kU + 2 * canonical_rounding(d) + static_cast<double>(d) * kEta;
}

}  // namespace

const float* Points::row(const float* x, const KernelTable& kernels, float* out,
                         double* off) const {
  *off = 0;
  if (metric == Metric::euclidean) return x;
  if (metric == Metric::cosine) {
    *off = unit(x, d, kernels, out);
    return out;
  }
  // The row is lifted to the length `longest`. Under the root, the row's square is off by theta
  // times itself, and all else by a rounding each.
  const double square = kernels.exact.dot(x, x, d), all = longest * longest;
  const double lift = std::sqrt(std::max(0.0, all - square));
  const double under = 2 * canonical_rounding(d) * all;
  std::copy_n(x, d, out);
  out[d] = static_cast<float>(lift);
  *off = (lift > 0 ? std::min(std::sqrt(under), under / lift) : std::sqrt(under)) +
         kU * lift * (1 + 0x1p-20);
  return out;
}

const float* Points::query(const float* x, const KernelTable& kernels, float* out,
                           double* off) const {
  if (metric != Metric::inner_product) return row(x, kernels, out, off);
  const double scale = product_scale(std::sqrt(kernels.exact.dot(x, x, d)), longest);
  kernels.filter.stage_unit(x, scale, out, d);
  out[d] = 0;
  *off = kU * longest * (1 + 0x1p-20) + static_cast<double>(d) * kEta;
  return out;
}

KeyDistance Points::distance_of_keys(const float* x, const KernelTable& kernels) const {
  if (metric == Metric::euclidean) return distance_of_squares(d);
  if (metric == Metric::cosine) return distance_of_cosines(d);
  return distance_of_products(kernels.exact.dot(x, x, d), longest, d);
}

}  // namespace resmem
