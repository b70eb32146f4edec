#include <algorithm>
#include <limits>
#include <numeric>

#include "../../../base/rounding.h"
#include "steps.h"

namespace resmem {
namespace {

// Rows whose codes are farther off than this are outliers. It lies a tenth above the error that all
// but one row in two hundred stay within.
float largest_usual_error(const std::vector<float>& error) {
  std::vector<float> sorted(error);
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() - 1) * 995 / 1000);
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at * 1.1F;
}

// Returns the bounds of a chunk with these members. Outliers have no centre (`bounded` is false),
// so that no distance rules their chunk out.
Chunk chunk_of(const ProjectionCodes& coded, const std::uint32_t* members, std::size_t count,
               bool bounded, std::size_t coordinates) {
  Chunk chunk{};
  chunk.near = bounded ? std::numeric_limits<float>::infinity() : 0;
  chunk.far = bounded ? 0 : std::numeric_limits<float>::infinity();
  const double theta = canonical_rounding(coordinates);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t r = members[i];
    const double slack = static_cast<double>(coded.slack[r]), away = coded.away[r];
    chunk.near = std::min(chunk.near, -round_up(slack - away * (1 - theta)));
    chunk.far = std::max(chunk.far, round_up(slack + away * (1 + theta)));
    chunk.error = std::max(chunk.error, coded.error[r]);
  }
  if (!bounded) chunk.near = -chunk.far;
  return chunk;
}

// Appends a chunk and the places of its members, padded to whole panels.
void add_chunk(Chunk chunk, const std::uint32_t* members, std::size_t count, std::uint32_t cluster,
               Arrangement& arrangement) {
  chunk.first = static_cast<std::uint32_t>(arrangement.rows.size());
  chunk.count = static_cast<std::uint32_t>((count + kPanelRows - 1) / kPanelRows * kPanelRows);
  chunk.cluster = cluster;
  arrangement.rows.insert(arrangement.rows.end(), members, members + count);
  arrangement.rows.resize(chunk.first + chunk.count, kNoRow);
  arrangement.chunks.push_back(chunk);
}

}  // namespace

// Outliers come last, in chunks of their own, so that they loosen no other chunk's bounds.
Arrangement arrange(const ProjectionCodes& coded, std::size_t clusters, std::size_t coordinates) {
  const std::size_t n = coded.label.size();
  const float usual = largest_usual_error(coded.error);
  const auto outliers = static_cast<std::uint32_t>(clusters);
  const auto group = [&](std::uint32_t i) {
    return coded.error[i] > usual ? outliers : coded.label[i];
  };
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const std::uint32_t ga = group(a), gb = group(b);
    const double near_a = coded.away[a], near_b = coded.away[b];
    return ga != gb ? ga < gb : near_a != near_b ? near_a < near_b : a < b;
  });
  Arrangement arrangement;
  std::size_t next = 0;
  for (std::uint32_t c = 0; c <= outliers; ++c) {
    const std::size_t first = next;
    while (next < n && group(order[next]) == c) ++next;
    for (std::size_t i = first; i < next; i += kChunkRows) {
      const std::size_t count = std::min(kChunkRows, next - i);
      const Chunk bounds = chunk_of(coded, &order[i], count, c != outliers, coordinates);
      add_chunk(bounds, &order[i], count, c, arrangement);
    }
  }
  return arrangement;
}

Panels lay_panels(const ProjectionCodes& coded, const AlignedVector<std::uint32_t>& rows) {
  const std::size_t depth = coded.depth;
  Panels panels;
  panels.codes.assign(rows.size() * depth, 0);
  panels.init.assign(rows.size(), kPaddingInit);
  for (std::size_t place = 0; place < rows.size(); ++place) {
    if (rows[place] == kNoRow) continue;
    const std::int8_t* codes = &coded.codes[rows[place] * depth];
    int square = 0, sum = 0;
    for (std::size_t p = 0; p < depth; ++p) {
      panels.codes[in_panels(place, p, depth)] = codes[p];
      square += codes[p] * codes[p];
      sum += codes[p];
    }
    panels.init[place] = -(square / 2) - kQueryOffset * sum;
  }
  return panels;
}

}  // namespace resmem
