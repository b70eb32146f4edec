// What the filter is given and the formulas of its certificate (README.md, "The filter").
#pragma once

#include "codes.h"
#include "points.h"

namespace resmem {
namespace device {

inline constexpr unsigned kTile = 128;  // rows, and queries, that a block compares

struct TileFacts {
  std::int32_t exponent;  // the smallest of the tile's rows
  std::int32_t uniform;   // whether all of them have it
  float error;            // no row of the tile has a larger one
};

// What is known of a query while its neighbours are looked for among rows that were coded together.
struct QueryState {
  std::int32_t square;  // sum of the squares of the codes
  float error;          // of the codes
  std::int32_t exponent;
  std::uint32_t query;   // its number
  double reach;          // no row farther than this is looked for; may be infinite
  float near;            // at least k rows are known to be no farther than this; may be infinite
  std::uint32_t kept;    // hits that were there after the last selection
  KeyDistance distance;  // what its canonical keys mean
};

// Tells whether scores fit 32 bits for a row's and a query's exponent: whether no row's term below
// reaches 2^30.
RESMEM_HOST_DEVICE bool fits_integers(int row_exponent, int query_exponent, unsigned depth) {
  const int shift = query_exponent - row_exponent - 1;
  return static_cast<double>(kLargestCode * kLargestCode) * depth < (shift <= 0 ? 0x1p30
                                                                     : shift < 30
                                                                         ? power_of_two(30 - shift)
                                                                         : 0.0);
}

// Returns floor(square * 2^(query_exponent - row_exponent - 1)), which the scores of a row lack.
RESMEM_HOST_DEVICE std::int32_t row_term(std::int32_t square, int row_exponent,
                                         int query_exponent) {
  const int shift = query_exponent - row_exponent - 1;
  if (shift >= 0) return square << shift;
  return shift > -31 ? square >> -shift : 0;
}

// Returns how far the codes of a row within reach may be from a query's, rounded up.
RESMEM_HOST_DEVICE double radius_of(const QueryState& query, float row_error) {
  return (query.reach + static_cast<double>(query.error) + static_cast<double>(row_error)) *
         (1 + 4 * kV);
}

// Returns a lower end of the score that rows within reach have, as equation (4) says.
RESMEM_HOST_DEVICE double least_score(const QueryState& query, const TileFacts& rows) {
  const double radius = radius_of(query, rows.error);
  const double own = query.square * power_of_two(rows.exponent - query.exponent);
  const double within = radius * radius * power_of_two(rows.exponent + query.exponent);
  return 0.5 * (own - within) - 8 * kV * (own + within);
}

// Returns the same for scores that are integers, rounded down and cut to what 32 bits hold.
RESMEM_HOST_DEVICE std::int32_t least_integer_score(double least) {
  if (!(least > -0x1p31)) return INT32_MIN;  // also for NaN, of an infinite reach
  return least < 0x1p31 - 1 ? static_cast<std::int32_t>(floor(least)) : INT32_MAX;
}

// Return the two sides of equation (5) but for the product: what a query and what a row bring
// along.
RESMEM_HOST_DEVICE double query_side(const QueryState& query, float row_error) {
  const double radius = radius_of(query, row_error), within = radius * radius;
  const double own = query.square * power_of_two(-2 * query.exponent);
  return (own - within) - 8 * kV * (own + within);
}
RESMEM_HOST_DEVICE double row_side(const CodeFacts& row) {
  return row.square * power_of_two(-2 * row.exponent) * (1 - 8 * kV);
}

}  // namespace device
}  // namespace resmem
