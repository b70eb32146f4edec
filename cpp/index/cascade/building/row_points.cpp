#include "row_points.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <random>
#include <stdexcept>

#include "../../../base/rounding.h"

namespace resmem {

void throw_uncodable() { throw std::invalid_argument("these rows cannot be coded"); }

void throw_changed() { throw std::invalid_argument("a row is not what its segment says"); }

RowPoints::RowPoints(const Segment& segment, std::size_t d, Metric metric,
                     const Execution& execution)
    : segment_(segment), d_(d), execution_(execution) {
  points_ =
      Points{Points::ordering(metric), d, metric == Metric::inner_product ? longest_row() : 0};
}

// The row is copied to `scratch`: another thread may write to the rows, and what is checked must be
// what is used.
const float* RowPoints::row(std::size_t i, float* scratch) const {
  const float* x = segment_.keys.read(i * d_, d_, scratch, execution_.kernels);
  if (x != scratch) std::copy_n(x, d_, scratch);
  if (!(execution_.kernels.filter.max_abs(scratch, d_) <= segment_.max_abs)) throw_changed();
  return scratch;
}

const float* RowPoints::point(std::size_t i, float* out, double* off, Role role) const {
  *off = 0;
  if (points_.metric == Metric::euclidean) return row(i, out);
  std::vector<float> scratch(d_);
  const float* x = row(i, scratch.data());
  return role == Role::query ? points_.query(x, execution_.kernels, out, off)
                             : points_.row(x, execution_.kernels, out, off);
}

// No row is longer than what this returns.
double RowPoints::longest_row() const {
  double square = 0;
  std::mutex mutex;
  parallel_for_rows(segment_.n, d_, execution_.threads, execution_.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      std::vector<float> scratch(d_);
                      double most = 0;
                      for (std::size_t i = first; i < last; ++i) {
                        const float* x = row(i, scratch.data());
                        most = std::max(most, execution_.kernels.exact.dot(x, x, d_));
                      }
                      const std::lock_guard<std::mutex> lock(mutex);
                      square = std::max(square, most);
                    });
  return std::sqrt(square) * (1 + canonical_rounding(d_));
}

std::vector<std::size_t> places_among(std::size_t n, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::size_t> found(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t first = n * i / count, last = n * (i + 1) / count;
    found[i] = first + random() % std::max<std::size_t>(1, last - first);
  }
  return found;
}

}  // namespace resmem
