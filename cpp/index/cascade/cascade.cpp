#include "cascade.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "../../base/rounding.h"

namespace resmem {

double Projection::map(const float* x, const float* layer, const KernelTable& kernels,
                       float* phi) const {
  const double theta = canonical_rounding(d),
               square = kernels.exact.squared_distance(offset.data(), x, d);
  const double norm = std::sqrt(square * (1 + 2 * theta));
  double along = 0, layer_square = 0;
  for (std::size_t c = 0; c < axes; ++c) {
    const double z = static_cast<double>(layer[c]), y = z - origin[c];
    layer_square += z * z;
    along += y * y;
    phi[c] = static_cast<float>(y);
  }
  const auto m = static_cast<double>(axes);
  // README.md derives this ("What is computed is not what is meant").
  const double sums = std::sqrt(m) * (1 + departure) * theta;
  const double off = departure * norm + 2 * kU * std::sqrt(layer_square) +
                     4 * sums * (norm + 2 * offset_norm) + m * kEta;
  double tail_off = 0;
  if (has_tail) {
    const double difference =
        theta * square + off * (2 * norm + off) + roundings(m + 4, kV) * along;
    const double tail = std::sqrt(std::max(0.0, square - along));
    tail_off =
        tail > 0 ? std::min(std::sqrt(difference), difference / tail) : std::sqrt(difference);
    phi[axes] = static_cast<float>(tail - tail_centre);
    along += tail * tail + tail_centre * tail_centre;
  }
  // Every coordinate is rounded to float32 once, and all that was done in float64 adds less than
  // that.
  return (off + tail_off + 2 * kU * std::sqrt(along)) * (1 + 16 * kV);
}

void Cascade::find_starts() {
  starts.assign(1, 0);
  whole.clear();
  for (std::size_t c = 0; c <= clusters; ++c) {
    std::size_t end = starts.back();
    Chunk all{0, 0, static_cast<std::uint32_t>(c), std::numeric_limits<float>::infinity(), 0, 0};
    for (; end < chunks.size() && chunks[end].cluster == c; ++end) {
      all.near = std::min(all.near, chunks[end].near);
      all.far = std::max(all.far, chunks[end].far);
    }
    starts.push_back(end);
    if (c < clusters) whole.push_back(all);
  }
}

void Cascade::complete() {
  // These are the limits of what a build can produce. It takes numbers from 2^-60 to 2^60 in fewer
  // than 2^48 dimensions, so that no length reaches kFar, and no two projections in float32 are
  // nearer than 2^-149.
  constexpr double kFar = 0x1p100, kFinest = 0x1p160;
  const auto require = [](bool holds) {
    if (!holds) throw std::invalid_argument("the parts of a cascade do not fit together");
  };
  const auto within = [&](double least, double value, double most) {
    require(value >= least && value <= most);
  };
  const auto all_within = [&](double least, const auto& values, double most) {
    for (std::size_t i = 0; i < values.size(); ++i)
      within(least, static_cast<double>(values[i]), most);
  };
  const std::size_t d = projection.d, width = projection.coordinates(), places = rows.size();
  require(points.metric != Metric::sqeuclidean);
  within(0, points.longest, kFar);
  require(n > 0 && n < kNoRow / 2 && clusters > 0 && clusters <= n);
  require(d > 0 && d == points.dimensions() && depth > 0 && depth <= kMostDepth && depth % 4 == 0);
  require(projection.has_tail == (d > depth) && projection.axes == (d > depth ? depth - 1 : d));
  require(code_depth == 0 || code_depth == (d + kCodeStep - 1) / kCodeStep * kCodeStep);
  // None of these products overflows: depth is small, and d and places are sizes of arrays.
  require(projection.offset.size() == d && projection.weight.size() == projection.axes * d &&
          projection.bias.size() == projection.axes && projection.origin.size() == projection.axes);
  require(centres.size() == clusters * width && steps.size() == (code_depth > 0 ? d : 0));
  require(panels.size() == places * depth && init.size() == places);
  require(codes.size() == places * code_depth && coded.size() == (code_depth > 0 ? places : 0));
  find_starts();
  all_within(-kFar, projection.offset, kFar);
  all_within(-2, projection.weight, 2);  // its rows have length 1
  all_within(-kFar, projection.bias, kFar);
  all_within(-kFar, projection.origin, kFar);
  all_within(-kFar, centres, kFar);
  all_within(0, steps, kFar);
  within(-kFar, projection.tail_centre, kFar);
  within(0, projection.departure, 1);
  within(0, projection.offset_norm, kFar);
  within(0, code_sum, 128 * static_cast<double>(d));
  within(0, largest_square, kFar * kFar);
  within(1 / kFar, scale, kFinest);
  all_within(kPaddingInit, init, 2048 * static_cast<double>(depth));
  for (std::size_t place = 0; place < coded.size(); ++place) {
    within(0, static_cast<double>(coded[place].square), kFar * kFar);
    within(0, static_cast<double>(coded[place].error), kFar);
  }
  std::size_t next = 0;
  for (const Chunk& chunk : chunks) {
    require(chunk.first == next && chunk.count > 0 && chunk.count <= kChunkRows &&
            chunk.count % kPanelRows == 0);
    require(chunk.near <= chunk.far);
    within(0, static_cast<double>(chunk.error), kFar);
    next += chunk.count;
  }
  require(next == places && starts.size() == clusters + 2 && starts.back() == chunks.size());
  std::vector<bool> there(n);
  std::size_t found = 0;
  for (std::size_t place = 0; place < places; ++place) {
    if (rows[place] == kNoRow) continue;
    require(rows[place] < n && !there[rows[place]]);
    there[rows[place]] = true;
    ++found;
  }
  require(found == n);
}

const IndexKind& Cascade::kind() const {
  static constexpr IndexKind kKind{"cascade", "codes", 1};
  return kKind;
}

bool Cascade::serves_metric(Metric metric) const { return points.serve(metric); }

bool Cascade::serves(const SearchRequest& request) const {
  return serves_metric(request.metric) && request.queries_max_abs <= kMostCoded;
}

std::size_t Cascade::bytes() const {
  return panels.size() + codes.size() + 4 * (init.size() + rows.size()) +
         coded.size() * sizeof(CodedRow) + 4 * centres.size() + chunks.size() * sizeof(Chunk) +
         4 * (projection.weight.size() + projection.offset.size() + steps.size());
}

std::uint64_t Cascade::digest() const {
  Digest digest;
  digest.take(std::vector<std::size_t>{n, depth, code_depth, clusters,
                                       static_cast<std::size_t>(points.metric), points.d,
                                       projection.d, projection.axes, projection.has_tail});
  digest.take(std::vector<double>{points.longest, scale, projection.tail_centre,
                                  projection.departure, projection.offset_norm, code_sum,
                                  largest_square});
  digest.take(projection.weight);
  digest.take(projection.offset);
  digest.take(projection.bias);
  digest.take(projection.origin);
  digest.take(centres);
  digest.take(chunks);
  digest.take(rows);
  digest.take(panels);
  digest.take(init);
  digest.take(steps);
  digest.take(codes);
  digest.take(coded);
  return digest.value();
}

}  // namespace resmem
