#include "simplex.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "../rows/numbers.h"

namespace resmem {

void fill_floors(const SimplexMap& map, const double* base, std::size_t n, double* out) {
  for (std::size_t c = 0; c < n; ++c) out[c] = map.floor_of(base[c]);
}

double simplex_shift(const SimplexMap& map, const double* padded, std::size_t n,
                     std::size_t floored, const KernelTable& kernels) {
  if (map.kind != SimplexMap::Kind::project) return 0;
  return kernels.sums.projection_shift(padded, n, map.mass(floored)) - map.floor;
}

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Maps one row after the other.
class RowMap {
 public:
  RowMap(const SimplexMap& map, const SimplexRows& rows, const KernelTable& kernels)
      : map_(map),
        rows_(rows),
        kernels_(kernels),
        padded_(padded_to_partials(rows.columns), -kInfinity),
        floors_(rows.columns, map.floor) {}

  void operator()(std::size_t i) {
    const std::size_t columns = rows_.columns;
    double* row = rows_.values + i * columns;
    std::size_t floored = columns;
    if (rows_.base != nullptr) {
      const double* base = rows_.base + i * columns;
      if (std::equal(row, row + columns, base)) {  // nothing is corrected
        std::copy_n(base, columns, row);
        return;
      }
      floored = take(base, row);
    }
    if (floored == columns && map_.kind == SimplexMap::Kind::project)
      std::copy_n(row, columns, padded_.begin());
    const double shift = simplex_shift(map_, padded_.data(), padded_.size(), floored, kernels_);
    for (std::size_t c = 0; c < columns; ++c) {
      const double value = row[c] - shift;
      row[c] = value > floors_[c] ? value : floors_[c];
    }
    const double total = kernels_.exact.csum(row, columns);
    for (std::size_t c = 0; c < columns; ++c) row[c] /= total;
  }

 private:
  // Finds the floors, sets impossible classes to -inf, and returns how many classes have a floor.
  std::size_t take(const double* base, double* row) {
    std::size_t floored = 0;
    for (std::size_t c = 0; c < rows_.columns; ++c) floored += base[c] > 0 ? 1 : 0;
    const bool were_lowered = lowered_;
    lowered_ = floored < rows_.columns;
    if (were_lowered || lowered_ || map_.kind == SimplexMap::Kind::keep)
      fill_floors(map_, base, rows_.columns, floors_.data());
    for (std::size_t c = 0; lowered_ && c < rows_.columns; ++c) {
      if (!is_possible(base[c], row[c], rows_.strength)) row[c] = -kInfinity;
      padded_[c] = base[c] > 0 ? row[c] : row[c] + map_.floor;
    }
    return floored;
  }

  const SimplexMap& map_;
  const SimplexRows& rows_;
  const KernelTable& kernels_;
  std::vector<double> padded_, floors_;
  bool lowered_ = false;  // whether the last row had classes without a floor
};

}  // namespace

void map_to_simplex(const SimplexMap& asked, const SimplexRows& rows, const Execution& execution) {
  const SimplexMap map = asked.fitted(rows.columns);
  parallel_for_rows(rows.n, rows.columns, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      RowMap mapped(map, rows, execution.kernels);
                      for (std::size_t i = first; i < last; ++i) mapped(i);
                    });
}

}  // namespace resmem
