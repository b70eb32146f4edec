// Computes both ends of the distance of a hit, on the host and the device alike (README.md,
// "Select").
#pragma once

#include "filter.h"

namespace resmem {
namespace device {

struct Ends {
  double low, high;
};

// Returns what the distance of a row and a query cannot be below and above, from their codes.
RESMEM_HOST_DEVICE Ends distance_ends(const QueryState& query, const CodeFacts& row,
                                      std::int32_t product) {
  const double own = query.square * power_of_two(row.exponent - query.exponent);
  const double theirs = row.square * power_of_two(query.exponent - row.exponent);
  const double gap = (own + theirs) - 2.0 * product, off = 4 * kV * (own + theirs);
  const double unit = power_of_two(-row.exponent - query.exponent);
  const double errors = static_cast<double>(query.error) + static_cast<double>(row.error);
  const double low = sqrt((gap > off ? gap - off : 0) * unit) * (1 - 4 * kV);
  const double high = sqrt((gap > 0 ? gap + off : off) * unit);
  const double least = low - errors * (1 + 4 * kV);
  return {least > 0 ? least * (1 - 4 * kV) : 0, (high + errors) * (1 + 8 * kV)};
}

}  // namespace device
}  // namespace resmem
