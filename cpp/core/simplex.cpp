#include "simplex.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "numbers.h"

namespace resmem {

SimplexMap SimplexMap::fitted(std::size_t columns) const {
  if (kind != Kind::project) return *this;
  return {kind, std::min(floor, 0.5 / static_cast<double>(columns))};
}

double SimplexMap::at(double base) const {
  constexpr double kLeast = 1e-9;  // CONTRACT.md: for classes that the base calls impossible
  return kind == Kind::keep ? std::max(floor * base, kLeast) : floor;
}

double simplex_shift(const SimplexMap& map, const double* padded, std::size_t columns,
                     const KernelTable& kernels) {
  if (map.kind != SimplexMap::Kind::project) return 0;
  const double mass = 1 - static_cast<double>(columns) * map.floor;
  const std::size_t n = padded_to_partials(columns);
  return kernels.projection_shift(padded, n, mass) - map.floor;
}

void simplex_rows(const SimplexMap& asked, double* values, const double* base, std::size_t n,
                  std::size_t columns, const KernelTable& kernels, std::size_t threads,
                  Interrupt& interrupt) {
  const SimplexMap map = asked.fitted(columns);
  parallel_for_rows(n, columns, threads, interrupt, [&](std::size_t first, std::size_t last, bool) {
    std::vector<double> padded(padded_to_partials(columns),
                               -std::numeric_limits<double>::infinity());
    for (std::size_t i = first; i < last; ++i) {
      double* row = values + i * columns;
      std::copy_n(row, columns, padded.begin());
      const double shift = simplex_shift(map, padded.data(), columns, kernels);
      for (std::size_t c = 0; c < columns; ++c) {
        const double floor = map.at(base == nullptr ? 0 : base[i * columns + c]);
        const double value = row[c] - shift;
        row[c] = value > floor ? value : floor;
      }
      const double total = kernels.csum(row, columns);
      for (std::size_t c = 0; c < columns; ++c) row[c] /= total;
    }
  });
}

}  // namespace resmem
