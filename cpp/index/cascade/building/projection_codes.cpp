#include <algorithm>
#include <cmath>
#include <numeric>

#include "../../../base/rounding.h"
#include "steps.h"

namespace resmem {
namespace {

constexpr std::size_t kBlockRows = 4096;

// Codes one Phi, and returns how far the codes are from the exact one; `slack` is how far the
// computed one is.
float quantise(const float* phi, std::size_t width, double scale, double slack,
               std::int8_t* codes) {
  double sum = 0;
  for (std::size_t p = 0; p < width; ++p) {
    const double value = static_cast<double>(phi[p]);
    const double code = nearest_code(value * scale, -127, 127);
    codes[p] = static_cast<std::int8_t>(code);
    const double off = value - code / scale;
    sum += off * off;
  }
  const auto w = static_cast<double>(width);
  return round_up(std::sqrt(sum) * (1 + roundings(w + 8, kV)) + slack);
}

}  // namespace

ProjectionCodes code_projections(const RowPoints& rows, const Projection& projection,
                                 const std::vector<float>& centres, double scale,
                                 std::size_t depth) {
  const std::size_t n = rows.n(), width = projection.coordinates();
  ProjectionCodes result;
  result.depth = depth;
  result.label.resize(n);
  result.away.resize(n);
  result.slack.resize(n);
  result.error.resize(n);
  result.codes.assign(n * depth, 0);
  std::vector<std::size_t> chosen;
  Projected block;
  NearestCentres nearest;
  for (std::size_t start = 0; start < n; start += kBlockRows) {
    chosen.resize(std::min(kBlockRows, n - start));
    std::iota(chosen.begin(), chosen.end(), start);
    project(rows, projection, chosen, Role::row, block);
    nearest_centres(block.phi, centres, width, rows.execution(), nearest);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const std::size_t row = start + i;
      result.label[row] = static_cast<std::uint32_t>(nearest.label[i]);
      result.away[row] = nearest.away[i];
      result.slack[row] = block.slack[i];
      result.error[row] = quantise(&block.phi[i * width], width, scale,
                                   static_cast<double>(block.slack[i]), &result.codes[row * depth]);
    }
  }
  return result;
}

}  // namespace resmem
