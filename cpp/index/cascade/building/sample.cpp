#include <algorithm>

#include "steps.h"

namespace resmem {
namespace {

constexpr std::size_t kSampleRows = 2048;

}  // namespace

PointSample take_sample(const RowPoints& rows) {
  const std::size_t d = rows.dimensions();
  const auto chosen = places_among(rows.n(), std::min(rows.n(), kSampleRows), 1);
  std::vector<double> mean(d);
  std::vector<float> scratch(d);
  double off;
  for (const std::size_t i : chosen) {
    const float* x = rows.point(i, scratch.data(), &off);
    for (std::size_t p = 0; p < d; ++p) mean[p] += static_cast<double>(x[p]);
  }
  PointSample sample;
  sample.count = chosen.size();
  sample.offset.resize(d);
  for (std::size_t p = 0; p < d; ++p)
    sample.offset[p] = static_cast<float>(mean[p] / static_cast<double>(chosen.size()));
  sample.centred.resize(chosen.size() * d);
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const float* x = rows.point(chosen[i], scratch.data(), &off);
    for (std::size_t p = 0; p < d; ++p)
      sample.centred[i * d + p] = static_cast<double>(x[p]) - static_cast<double>(sample.offset[p]);
  }
  return sample;
}

}  // namespace resmem
