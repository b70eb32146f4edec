// What the filter is given and the formulas of its certificate (README.md, "The filter").
#pragma once

#include "codes.h"

namespace resmem {
namespace device {

inline constexpr unsigned kTile = 128;  // rows, and queries, that a block compares

// Rows or queries that a tile holds have one exponent.
struct TileFacts {
  std::int32_t exponent;
  float error;  // no row of the tile has a larger one
};

struct QueryFacts {
  std::int32_t square;  // sum of the squares of the codes
  float error;          // of the codes
  double reach;         // no row farther than this is looked for; may be infinite
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

// A row that the filter let through. Its score is the product of its codes and the query's, less
// the row's term where scores are integers.
struct Hit {
  std::uint32_t row;  // its place
  std::int32_t score;
};

// Returns the product that a score was made of.
RESMEM_HOST_DEVICE std::int32_t product_of(std::int32_t score, const CodeFacts& row,
                                           int query_exponent, unsigned depth) {
  if (!fits_integers(row.exponent, query_exponent, depth)) return score;
  return score + row_term(row.square, row.exponent, query_exponent);
}

// Returns a lower end of the score that rows within reach have, as equation (4) says.
RESMEM_HOST_DEVICE double least_score(const QueryFacts& query, int query_exponent,
                                      const TileFacts& rows) {
  constexpr double kUnit = 0x1p-53;
  const double radius =
      (query.reach + static_cast<double>(query.error) + static_cast<double>(rows.error)) *
      (1 + 4 * kUnit);
  const double own = query.square * power_of_two(rows.exponent - query_exponent);
  const double within = radius * radius * power_of_two(rows.exponent + query_exponent);
  return 0.5 * (own - within) - 8 * kUnit * (own + within);
}

// Returns the same for scores that are integers, rounded down and cut to what 32 bits hold.
RESMEM_HOST_DEVICE std::int32_t least_integer_score(double least) {
  if (!(least > -0x1p31)) return INT32_MIN;  // also for NaN, of an infinite reach
  return least < 0x1p31 - 1 ? static_cast<std::int32_t>(floor(least)) : INT32_MAX;
}

}  // namespace device
}  // namespace resmem
