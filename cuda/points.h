// Makes rows and queries points of a Euclidean space where nearer means a smaller key (README.md,
// "Other metrics"), in double precision.
#pragma once

#include "../cpp/base/key_distance.h"

namespace resmem {
namespace device {

enum class KeyKind { squared_distance, cosine, inner_product };

// A vector's point is the vector times `scale`, and for inner products `lift` in one dimension
// more. What is computed of it is at most `off` away from the exact point.
struct Point {
  double scale, lift, off;
};

RESMEM_HOST_DEVICE unsigned point_dimensions(KeyKind kind, unsigned d) {
  return kind == KeyKind::inner_product ? d + 1 : d;
}

// Returns a length that no row exceeds, from the largest computed square of a row.
RESMEM_HOST_DEVICE double longest_from(double largest_square, unsigned d) {
  return sqrt(largest_square * (1 + 2 * canonical_rounding(d))) * (1 + 4 * kV);
}

RESMEM_HOST_DEVICE Point unit_point(double square, unsigned d) {
  if (!(square > 0)) return {0, 0, 0.7072};
  return {1 / sqrt(square), 0, 2 * canonical_rounding(d)};
}

// `square` is the computed square of the row's length. `longest` counts for inner products alone.
RESMEM_HOST_DEVICE Point row_point(KeyKind kind, double square, double longest, unsigned d) {
  if (kind == KeyKind::squared_distance) return {1, 0, 0};
  if (kind == KeyKind::cosine) return unit_point(square, d);
  const double left = longest * longest - square;
  const double lift = left > 0 ? sqrt(left) : 0;
  const double under = 2 * canonical_rounding(d) * longest * longest;
  const double near = sqrt(under), far = lift > 0 ? under / lift : near;
  return {1, lift, (near < far ? near : far) * (1 + 4 * kV) + 2 * kV * lift};
}

RESMEM_HOST_DEVICE Point query_point(KeyKind kind, double square, double longest, unsigned d) {
  if (kind == KeyKind::squared_distance) return {1, 0, 0};
  if (kind == KeyKind::cosine) return unit_point(square, d);
  return {product_scale(sqrt(square), longest), 0, 2 * kV * longest};
}

RESMEM_HOST_DEVICE KeyDistance key_distance(KeyKind kind, double square, double longest,
                                            unsigned d) {
  if (kind == KeyKind::squared_distance) return distance_of_squares(d);
  if (kind == KeyKind::cosine) return distance_of_cosines(d);
  return distance_of_products(square, longest, d);
}

}  // namespace device
}  // namespace resmem
