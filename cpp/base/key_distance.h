// The distances that order keys stand for, on the host and on a device, so that one filter of
// Euclidean distances serves every metric (index/cascade/README.md, "Other metrics").
#pragma once

#include "rounding.h"

namespace resmem {

// Turns canonical keys of one query into distances D between exact points, by the bound
// |D^2 - (at_zero + per_key * key)| <= relative * (at_zero + per_key * key) + absolute. A row that
// is longer than all that the points were made for has no point for inner products. For it the sum
// in brackets may be negative, which means nearer than any point.
struct KeyDistance {
  double at_zero = 0, per_key = 1, relative = 0, absolute = 0;

  RESMEM_HOST_DEVICE double low(double key) const { return root(square(key, -1)); }
  RESMEM_HOST_DEVICE double high(double key) const { return root(square(key, 1)); }
  // No row whose key is at most the k-th is farther than this, if k rows are no farther than `kth`.
  // Their keys may be off in one direction, and that row's in the other.
  RESMEM_HOST_DEVICE double reach(double kth) const {
    return root(kth * kth * (1 + 2 * relative) + 2 * absolute);
  }

 private:
  RESMEM_HOST_DEVICE static double root(double square) {
    return square > 0 ? std::sqrt(square) : 0;
  }
  RESMEM_HOST_DEVICE double square(double key, double sign) const {
    return (at_zero + per_key * key) * (1 + sign * relative) + sign * absolute;
  }
};

RESMEM_HOST_DEVICE KeyDistance distance_of_squares(std::size_t d) {
  return {0, 1, 2 * canonical_rounding(d), 0};
}

// |q - x|^2 = 2 (1 - similarity), which is within 4 theta (flat/bounds/cosine.cpp).
RESMEM_HOST_DEVICE KeyDistance distance_of_cosines(std::size_t d) {
  return {0, 2, 16 * kV, 8 * canonical_rounding(d)};
}

// Returns the factor that gives a query the length of the longest row. The order of rows does not
// depend on a query's length, and with this one their points lie close together.
RESMEM_HOST_DEVICE double product_scale(double norm, double longest) {
  return norm > 0 ? longest / norm : 1;
}

// |t q - x|^2 = t^2 |q|^2 + longest^2 - 2 t q.x: products are off by theta times the lengths. The
// query's `square` is |q|^2, and no row is longer than `longest`.
RESMEM_HOST_DEVICE KeyDistance distance_of_products(double square, double longest, std::size_t d) {
  const double norm = std::sqrt(square), t = product_scale(norm, longest);
  const double length = t * norm, lengths = length + longest;  // t * t may overflow
  return {length * length + longest * longest, 2 * t, 16 * kV,
          4 * canonical_rounding(d) * lengths * lengths};
}

}  // namespace resmem
