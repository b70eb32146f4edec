#include "simplex.h"

#include <algorithm>
#include <limits>

#include "numbers.h"

namespace resmem {

SimplexMap SimplexMap::fitted(std::size_t columns) const {
  return project ? SimplexMap{true, std::min(floor, 0.5 / static_cast<double>(columns))} : *this;
}

double simplex_shift(const SimplexMap& map, const double* values, std::size_t n,
                     const KernelTable& kernels, std::vector<double>& padded) {
  if (!map.project) return 0;
  padded.assign((n + kPartials - 1) / kPartials * kPartials,
                -std::numeric_limits<double>::infinity());
  std::copy_n(values, n, padded.begin());
  const double mass = 1 - static_cast<double>(n) * map.floor;
  return kernels.projection_shift(padded.data(), padded.size(), mass) - map.floor;
}

void simplex_rows(const SimplexMap& asked, double* values, std::size_t n, std::size_t columns,
                  const KernelTable& kernels, std::size_t threads, Interrupt& interrupt) {
  const SimplexMap map = asked.fitted(columns);
  parallel_for_rows(n, columns, threads, interrupt, [&](std::size_t first, std::size_t last, bool) {
    std::vector<double> padded;
    for (std::size_t i = first; i < last; ++i) {
      double* row = values + i * columns;
      const double shift = simplex_shift(map, row, columns, kernels, padded);
      for (std::size_t c = 0; c < columns; ++c) {
        const double value = row[c] - shift;
        row[c] = value > map.floor ? value : map.floor;
      }
      const double total = kernels.csum(row, columns);
      for (std::size_t c = 0; c < columns; ++c) row[c] /= total;
    }
  });
}

}  // namespace resmem
