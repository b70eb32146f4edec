#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "steps.h"

namespace resmem {
namespace {

// The same rows tell where tails lie and how far rows are apart.
std::vector<std::size_t> measured_rows(const RowPoints& rows) {
  return places_among(rows.n(), std::min<std::size_t>(rows.n(), 512), 3);
}

// Scores of 16 bits hold squared distances of codes up to `reach^2 + 2^16` and a reach of less than
// 256; rows that are farther may pass without need. Three limits follow. First, all but one in a
// hundred of the distances `apart` of random pairs fit past a reach; nine tenths of the median of
// `near`, the distances to the nearest row of the sample, stand for that reach. Second, the reach
// of nearly all rows fits. Third, all but the largest codes of queries, whose coordinates are at
// most `largest`, lie within 6 bits and a sign. Finer codes have smaller errors, and so the scale
// is the finest that these limits leave.
double finest_scale(std::vector<double>& apart, std::vector<double>& near, double largest) {
  const auto quantile = [](std::vector<double>& values, std::size_t percent) {
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(values.size() * percent / 100);
    std::nth_element(values.begin(), at, values.end());
    return *at;
  };
  const double far = quantile(apart, 99), typical = 0.9 * quantile(near, 50);
  if (!(far > 0)) return largest > 0 ? 64 / largest : 1;
  const double held = 256 / std::sqrt(far * far - typical * typical);
  return std::min({held, 240 / quantile(near, 95), 100 / largest});
}

}  // namespace

double mean_tail(const RowPoints& rows, const Projection& projection) {
  if (!projection.has_tail) return 0;
  const auto chosen = measured_rows(rows);
  const std::size_t width = projection.coordinates();
  Projected found;
  project(rows, projection, chosen, Role::row, found);
  double sum = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i)
    sum += static_cast<double>(found.phi[i * width + projection.axes]);
  return sum / static_cast<double>(chosen.size());
}

double code_scale(const RowPoints& rows, const Projection& projection) {
  const auto chosen = measured_rows(rows);
  const std::size_t width = projection.coordinates(), count = chosen.size();
  if (count < 2) return 1;
  Projected as_rows, as_queries;
  project(rows, projection, chosen, Role::row, as_rows);
  project(rows, projection, chosen, Role::query, as_queries);
  const std::vector<float>&phi = as_rows.phi, &asked = as_queries.phi;
  double largest = 0;
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t p = 0; p < projection.axes; ++p)
      largest = std::max(largest, std::fabs(static_cast<double>(asked[i * width + p])));
  const auto squared_distance = rows.execution().kernels.exact.squared_distance;
  std::vector<double> apart, near(count, std::numeric_limits<double>::infinity());
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < count; ++j) {
      if (i == j) continue;
      apart.push_back(std::sqrt(squared_distance(&asked[i * width], &phi[j * width], width)));
      near[i] = std::min(near[i], apart.back());
    }
  return finest_scale(apart, near, largest);
}

}  // namespace resmem
