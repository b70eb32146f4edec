#include <algorithm>

#include "../../../flat/flat_search.h"
#include "steps.h"

namespace resmem {
namespace {

// Moves each centre to the mean of its members, in float64; one without members stays.
void move_centres(const std::vector<float>& phi, const std::vector<std::int64_t>& label,
                  std::size_t width, std::vector<float>& centres) {
  const std::size_t k = centres.size() / width;
  std::vector<double> sum(k * width);
  std::vector<std::size_t> members(k);
  for (std::size_t i = 0; i < label.size(); ++i) {
    const auto c = static_cast<std::size_t>(label[i]);
    ++members[c];
    for (std::size_t p = 0; p < width; ++p)
      sum[c * width + p] += static_cast<double>(phi[i * width + p]);
  }
  for (std::size_t c = 0; c < k; ++c)
    for (std::size_t p = 0; p < width && members[c] > 0; ++p)
      centres[c * width + p] =
          static_cast<float>(sum[c * width + p] / static_cast<double>(members[c]));
}

}  // namespace

std::vector<float> find_centres(const RowPoints& rows, const Projection& projection,
                                std::size_t clusters) {
  const std::size_t n = rows.n(), width = projection.coordinates();
  std::size_t k = std::max<std::size_t>(1, std::min(clusters, n));
  const std::size_t count = std::min(n, std::max<std::size_t>(1024, 24 * k));
  k = std::min(k, count);
  Projected sample;
  project(rows, projection, places_among(n, count, 4), Role::row, sample);
  std::vector<float> centres(k * width);
  for (std::size_t c = 0; c < k; ++c)
    std::copy_n(&sample.phi[count * c / k * width], width, &centres[c * width]);
  NearestCentres nearest;
  for (int round = 0; round < 4; ++round) {
    nearest_centres(sample.phi, centres, width, rows.execution(), nearest);
    move_centres(sample.phi, nearest.label, width, centres);
  }
  return centres;
}

// The search itself does this, with k = 1.
void nearest_centres(const std::vector<float>& phi, const std::vector<float>& centres,
                     std::size_t coordinates, const Execution& execution, NearestCentres& result) {
  const std::size_t count = phi.size() / coordinates;
  SearchRequest request;
  request.queries = phi.data();
  request.q = count;
  request.d = coordinates;
  request.k = 1;
  request.queries_max_abs = execution.kernels.filter.max_abs(phi.data(), phi.size());
  Segment segment;
  segment.keys.data = centres.data();
  segment.n = centres.size() / coordinates;
  segment.max_abs = execution.kernels.filter.max_abs(centres.data(), centres.size());
  request.segments.push_back(segment);
  result.label.resize(count);
  result.away.resize(count);
  flat_search(request, execution, {result.away.data(), result.label.data(), nullptr});
  if (std::find(result.label.begin(), result.label.end(), -1) != result.label.end())
    throw_changed();
}

}  // namespace resmem
