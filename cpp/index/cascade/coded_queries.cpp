#include "coded_queries.h"

#include <limits>

#include "../../residuals/head.h"

namespace resmem {

CodedQueries::CodedQueries(const Cascade& cascade, const IndexScope& scope)
    : cascade_(cascade),
      kernels_(scope.execution.kernels),
      theta_(canonical_rounding(cascade.points.dimensions())) {
  const Projection& map = cascade_.projection;
  const std::size_t count = scope.count;
  const LinearHead layer{map.weight.data(), map.bias.data(), map.axes, map.d, 1};
  std::vector<float> out(count * map.axes);
  head_logits(
      layer, count,
      [&](std::size_t i, float* scratch) {
        double off;
        return cascade_.points.query(scope.query(i), kernels_, scratch, &off);
      },
      scope.execution, out.data());
  for (std::size_t c = 0; c < cascade_.clusters; ++c)
    centres_.push_back(&cascade_.centres[c * map.coordinates()]);
  for (std::size_t i = 0; i < count; ++i)
    canonical_.emplace_back(scope.request, kernels_, scope.first + i);
  coded_.resize(count);
  codes_.assign(count * cascade_.depth, 0);
  weights_.assign(count * cascade_.code_depth, 0);
  away_.resize(count * cascade_.clusters);
  parallel_for_rows(
      count, (cascade_.clusters + 2) * (map.coordinates() + map.d), scope.execution.threads,
      scope.execution.interrupt, [&](std::size_t begin, std::size_t end, bool) {
        std::vector<float> scratch(map.d);
        for (std::size_t i = begin; i < end; ++i) {
          const float* query = scope.query(i);
          coded_[i].keys = cascade_.points.distance_of_keys(query, kernels_);
          code(i, cascade_.points.query(query, kernels_, scratch.data(), &coded_[i].point_off),
               &out[i * map.axes]);
        }
      });
}

void CodedQueries::code(std::size_t i, const float* point, const float* layer) {
  const Projection& map = cascade_.projection;
  const std::size_t width = map.coordinates();
  CodedQuery& coded = coded_[i];
  std::vector<float> phi(width);
  coded.slack = coded.point_off + map.map(point, layer, kernels_, phi.data());
  double off_square = 0;
  coded.square = 0;
  std::uint8_t* codes = &codes_[i * cascade_.depth];
  for (std::size_t p = 0; p < width; ++p) {
    const double value = static_cast<double>(phi[p]);
    const double code = nearest_code(value * cascade_.scale, -64, 63);
    codes[p] = static_cast<std::uint8_t>(static_cast<int>(code) + kQueryOffset);
    coded.square += static_cast<std::int64_t>(code * code);
    const double off = value - code / cascade_.scale;
    off_square += off * off;
  }
  const auto w = static_cast<double>(width);
  coded.error = std::sqrt(off_square) * (1 + (w + 16) * kV) + coded.slack;
  double* away = &away_[i * cascade_.clusters];
  const std::vector<const float*> same(cascade_.clusters, phi.data());
  kernels_.exact.squared_distances(same.data(), centres_.data(), cascade_.clusters, width, away);
  // Clusters are sorted by this distance, and NaN has no place in an order.
  for (std::size_t c = 0; c < cascade_.clusters; ++c)
    away[c] = std::isfinite(away[c]) ? std::sqrt(away[c]) : std::numeric_limits<double>::infinity();
  if (cascade_.code_depth > 0) code_weights(i, point);
}

void CodedQueries::code_weights(std::size_t i, const float* point) {
  const Projection& map = cascade_.projection;
  CodedQuery& coded = coded_[i];
  coded.offset_square = kernels_.exact.squared_distance(map.offset.data(), point, map.d);
  double largest = 0;
  const auto weight = [&](std::size_t p) {
    return static_cast<double>(cascade_.steps[p]) *
           (static_cast<double>(point[p]) - static_cast<double>(map.offset[p]));
  };
  for (std::size_t p = 0; p < map.d; ++p) largest = std::max(largest, std::fabs(weight(p)));
  // Weights are so small that no sum of their products with 8-bit codes leaves int32, whatever the
  // codes are.
  const double most =
      std::min(32767.0, std::floor(2147483647.0 / 128 / static_cast<double>(map.d)));
  coded.unit = largest > 0 ? largest / most : 1;
  coded.off = coded.unit * cascade_.code_sum * (1 + 0x1p-29) + cascade_.largest_square * 0x1p-23 +
              coded.offset_square * 2 * theta_;
  std::int16_t* weights = &weights_[i * cascade_.code_depth];
  for (std::size_t p = 0; p < map.d; ++p)
    weights[p] = static_cast<std::int16_t>(nearest_code(weight(p) / coded.unit, -most, most));
}

}  // namespace resmem
