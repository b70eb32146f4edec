// The rows that a cascade is built of, as points, and what the build works with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../../base/execution.h"
#include "../../../rows/segment.h"
#include "../points.h"

namespace resmem {

[[noreturn]] void throw_uncodable();
// For rows that another thread has written to since the segment was described.
[[noreturn]] void throw_changed();

// A query with a row's numbers has another point than the row, if the metric is inner products.
enum class Role { row, query };

class RowPoints {
 public:
  // Takes rows [0, segment.n), each of d numbers. For inner products it reads them all, to find the
  // longest. The segment and the execution must outlive this.
  RowPoints(const Segment& segment, std::size_t d, Metric metric, const Execution& execution);

  std::size_t n() const { return segment_.n; }
  std::size_t dimensions() const { return points_.dimensions(); }  // of a point
  const Points& points() const { return points_; }
  const Execution& execution() const { return execution_; }

  // Computes the point of row i into `out` (dimensions()), and into `off` how far it can be from
  // the exact point. Throws std::invalid_argument if the row has been changed.
  const float* point(std::size_t i, float* out, double* off, Role role = Role::row) const;

 private:
  const float* row(std::size_t i, float* scratch) const;
  double longest_row() const;

  const Segment& segment_;
  const std::size_t d_;  // of rows
  const Execution& execution_;
  Points points_;
};

// Chooses one row at a seeded place of each of `count` stretches of equal length.
std::vector<std::size_t> places_among(std::size_t n, std::size_t count, std::uint64_t seed);

}  // namespace resmem
