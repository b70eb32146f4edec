#include <algorithm>
#include <cmath>
#include <random>

#include "../../../base/rounding.h"
#include "steps.h"

namespace resmem {
namespace {

double dot(const double* a, const double* b, std::size_t n) {
  double sum[4] = {0, 0, 0, 0};
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (std::size_t j = 0; j < 4; ++j) sum[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void add_multiple(double factor, const double* x, std::size_t n, double* sum) {
  for (std::size_t p = 0; p < n; ++p) sum[p] += factor * x[p];
}

// Makes rows orthonormal, in their order (Gram and Schmidt, twice: the second pass mends the
// rounding of the first).
void orthonormalise(std::vector<double>& rows, std::size_t count, std::size_t d,
                    std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  for (std::size_t i = 0; i < count; ++i) {
    double* row = rows.data() + i * d;
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t j = 0; j < i; ++j) {
        const double* other = rows.data() + j * d;
        const double along = dot(row, other, d);
        for (std::size_t p = 0; p < d; ++p) row[p] -= along * other[p];
      }
      double norm = std::sqrt(dot(row, row, d));
      if (!(norm > 1e-200)) {  // nothing is left of it, and any other direction serves
        for (std::size_t p = 0; p < d; ++p) row[p] = normal(random);
        norm = std::sqrt(dot(row, row, d));
        pass = -1;
      }
      for (std::size_t p = 0; p < d; ++p) row[p] /= norm;
    }
  }
}

std::vector<double> normal_matrix(std::size_t size, std::normal_distribution<double>& normal,
                                  std::mt19937_64& random) {
  std::vector<double> values(size);
  for (double& value : values) value = normal(random);
  return values;
}

// Multiplies m axes by the covariance matrix of the sample. A factor (its count) is left in, as the
// axes are made orthonormal afterwards.
std::vector<double> through_covariance(const PointSample& sample, const std::vector<double>& axes,
                                       std::size_t m, const Execution& execution) {
  const std::size_t d = sample.offset.size();
  std::vector<double> along(sample.count * m), next(m * d);
  parallel_for_rows(sample.count, m * d, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      for (std::size_t i = first; i < last; ++i)
                        for (std::size_t c = 0; c < m; ++c)
                          along[i * m + c] = dot(&sample.centred[i * d], &axes[c * d], d);
                    });
  parallel_for_rows(m, sample.count * d, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      for (std::size_t c = first; c < last; ++c)
                        for (std::size_t i = 0; i < sample.count; ++i)
                          add_multiple(along[i * m + c], &sample.centred[i * d], d, &next[c * d]);
                    });
  return next;
}

struct Directions {
  std::vector<double> axes;  // (m, d), orthonormal
  std::vector<double> turn;  // (m, m), orthonormal
};

// Finds m axes by subspace iteration on the sample, and a random turn of them, after which codes
// are even. Any orthonormal rows are valid; these leave small tails. Where no direction is left out
// (`all`), there is nothing to iterate for.
Directions find_directions(const PointSample& sample, std::size_t m, bool all,
                           const Execution& execution) {
  const std::size_t d = sample.offset.size();
  std::mt19937_64 random(2);
  std::normal_distribution<double> normal;
  Directions found;
  found.axes = normal_matrix(m * d, normal, random);
  orthonormalise(found.axes, m, d, random);
  for (int round = 0; !all && round < 3; ++round) {
    found.axes = through_covariance(sample, found.axes, m, execution);
    orthonormalise(found.axes, m, d, random);
  }
  found.turn = normal_matrix(m * m, normal, random);
  orthonormalise(found.turn, m, m, random);
  return found;
}

// Returns what |W W' - 1| (Frobenius norm) is at most, given the computed products of rows of W.
double departure_of(const Projection& map, const KernelTable& kernels) {
  double sum = 0;
  for (std::size_t a = 0; a < map.axes; ++a)
    for (std::size_t b = 0; b <= a; ++b) {
      const double off = kernels.exact.dot(&map.weight[a * map.d], &map.weight[b * map.d], map.d) -
                         (a == b ? 1 : 0);
      sum += (a == b ? 1 : 2) * off * off;
    }
  const auto m = static_cast<double>(map.axes);
  // Every product of rows is off by at most canonical_rounding(d) times their norms (below 2).
  return std::sqrt(sum) * (1 + roundings(m * m + 4, kV)) + 4 * m * canonical_rounding(map.d);
}

}  // namespace

Projection find_axes(const RowPoints& rows, const PointSample& sample, std::size_t depth) {
  const KernelTable& kernels = rows.execution().kernels;
  const std::size_t d = rows.dimensions();
  Projection map;
  map.d = d;
  map.offset = sample.offset;
  map.has_tail = d > depth;
  map.axes = std::min(d, map.has_tail ? depth - 1 : d);
  const std::size_t m = map.axes;
  const auto [axes, turn] = find_directions(sample, m, !map.has_tail, rows.execution());
  map.weight.assign(m * d, 0.0F);
  map.bias.resize(m);
  map.origin.resize(m);
  std::vector<double> turned(d);
  for (std::size_t c = 0; c < m; ++c) {
    std::fill(turned.begin(), turned.end(), 0.0);
    for (std::size_t j = 0; j < m; ++j)
      add_multiple(turn[c * m + j], &axes[j * d], d, turned.data());
    for (std::size_t p = 0; p < d; ++p) map.weight[c * d + p] = static_cast<float>(turned[p]);
    const double at_offset = kernels.exact.dot(&map.weight[c * d], map.offset.data(), d);
    map.bias[c] = static_cast<float>(-at_offset);
    map.origin[c] = at_offset + static_cast<double>(map.bias[c]);
  }
  map.departure = departure_of(map, kernels);
  map.offset_norm = std::sqrt(kernels.exact.dot(map.offset.data(), map.offset.data(), d));
  return map;
}

}  // namespace resmem
