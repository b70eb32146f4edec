#include "points.h"

#include "../../base/rounding.h"

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

// Returns the factor that gives a query the length of the longest row. The order of rows does not
// depend on a query's length, and with this one their points lie close together.
double query_scale(double norm, double longest) { return norm > 0 ? longest / norm : 1; }

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
  const double scale = query_scale(std::sqrt(kernels.exact.dot(x, x, d)), longest);
  kernels.filter.stage_unit(x, scale, out, d);
  out[d] = 0;
  *off = kU * longest * (1 + 0x1p-20) + static_cast<double>(d) * kEta;
  return out;
}

KeyDistance Points::distance_of_keys(const float* x, const KernelTable& kernels) const {
  const double theta = canonical_rounding(d);
  if (metric == Metric::euclidean) return {0, 1, 2 * theta, 0};
  // |q - x|^2 = 2 (1 - similarity), which is within 4 theta (flat/bounds/cosine.cpp).
  if (metric == Metric::cosine) return {0, 2, 16 * kV, 8 * theta};
  // |t q - x|^2 = t^2 |q|^2 + longest^2 - 2 t q.x: products are off by theta times the lengths.
  const double square = kernels.exact.dot(x, x, d), norm = std::sqrt(square);
  const double t = query_scale(norm, longest), lengths = t * norm + longest;
  return {t * t * square + longest * longest, 2 * t, 16 * kV, 4 * theta * lengths * lengths};
}

}  // namespace resmem
