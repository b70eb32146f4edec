// A cascade keeps three things of some rows: a coded projection, clusters of the projections, and
// coded rows. README.md derives everything, and the letters here are its letters.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../base/execution.h"
#include "../../base/mappable.h"
#include "../../rows/segment.h"
#include "../row_index.h"
#include "points.h"

namespace resmem {

// The shape of a cascade that is to be built.
struct CascadeShape {
  Metric metric = Metric::euclidean;
  std::size_t depth = 0;     // codes of a row's projection, a multiple of 4
  std::size_t clusters = 0;  // at least 1
  bool coded_rows = true;    // the second stage
};

// The projection Phi(x) = (W0 (x - offset), |what W0 leaves of x - offset|), as computed.
struct Projection {
  std::size_t d = 0, axes = 0;
  bool has_tail = false;
  std::vector<float> offset;   // (d,)
  std::vector<float> weight;   // (axes, d): W, nearly orthonormal rows
  std::vector<float> bias;     // (axes,)
  std::vector<double> origin;  // (axes,): what the layer gives of the offset
  double tail_centre = 0;      // subtracted from the last coordinate
  double departure = 0;        // |W W' - 1| is at most this (Frobenius norm)
  double offset_norm = 0;

  std::size_t coordinates() const { return axes + (has_tail ? 1 : 0); }
  // Writes Phi of x, made of the layer's outputs, as float32. Returns how far from the exact Phi it
  // can be.
  double map(const float* x, const float* layer, const KernelTable& kernels, float* phi) const;
};

inline constexpr std::uint32_t kNoRow = 0xFFFFFFFF;
inline constexpr std::size_t kChunkRows = 128;
inline constexpr int kQueryOffset = 64;  // codes of queries are stored with this added
// With more codes a score could leave 32 bits: a row's init is at least -16,192 a code
// (127^2 / 2 + 64 * 127), its products 128 * 127 a code, and a threshold at most 2,048 a code.
inline constexpr std::size_t kMostDepth = std::size_t{1} << 15;
// The init of places without a row is beyond every threshold, and modulo 2^16 beyond most.
inline constexpr std::int32_t kPaddingInit = -(1 << 30) - 24000;

// Returns the nearest whole number within limits. A NaN comes of numbers that another thread has
// changed since they were checked. It gives `low`, as no conversion of NaN to an integer is
// defined.
inline double nearest_code(double value, double low, double high) {
  return std::min(std::max(low, std::nearbyint(value)), high);
}

// A chunk is rows of one cluster that lie together and fill whole panels.
struct Chunk {
  std::uint32_t first, count, cluster;
  float near, far;  // Phi of its rows is at least and at most this far from the cluster's centre
  float error;      // no row's coded Phi is farther from the exact one
};

// These are kept beside the codes of a row.
struct CodedRow {
  float square;  // |steps * code|^2
  float error;   // the coded row is no farther from the row
};

struct Cascade final : RowIndex {
  std::size_t n = 0, depth = 0, code_depth = 0, clusters = 0;
  Points points;
  Projection projection;            // of points
  double scale = 1;                 // codes per unit of length
  std::vector<float> centres;       // (clusters, coordinates)
  std::vector<Chunk> chunks;        // ascending by cluster
  std::vector<std::size_t> starts;  // where every cluster's chunks start, and the end
  std::vector<Chunk> whole;         // per cluster: the least near and the largest far of its chunks
  std::vector<float> steps;         // (dimensions,): a coded row is offset + steps * code; or empty
  double code_sum = 0;              // sum |code| of a row is at most this
  double largest_square = 0;
  Mappable<std::uint32_t> rows;  // row of each place, kNoRow for padding
  Mappable<std::int8_t> panels;  // kernels/table.h, CodeScanArgs
  Mappable<std::int32_t> init;   // per place
  Mappable<std::int8_t> codes;   // (places, code_depth), or empty
  Mappable<CodedRow> coded;      // per place, or empty

  // Sets `starts` and `whole` by the chunks.
  void find_starts();
  // Does the same once all else has been read from a file. Throws std::invalid_argument if a search
  // could read beyond anything, overflow an integer or compare NaN.
  void complete();

  const IndexKind& kind() const override;
  std::size_t covers() const override { return n; }
  std::size_t dimensions() const override { return points.d; }
  std::size_t bytes() const override;
  std::uint64_t digest() const override;
  bool serves_metric(Metric metric) const override;
  bool serves(const SearchRequest& request) const override;
  std::size_t queries_together(const SearchRequest& request) const override;
  void search(const IndexScope& scope, const IndexOutput& output) const override;
};

// Returns where code p of a place lies in the panels (kernels/table.h, CodeScanArgs).
inline std::size_t in_panels(std::size_t place, std::size_t p, std::size_t depth) {
  const std::size_t panel = place / kPanelRows * kPanelRows;
  return panel * depth + (p / 4 * kPanelRows + place - panel) * 4 + p % 4;
}

// Builds a cascade of rows [0, segment.n) of a segment, each of d numbers. Throws Interrupted, and
// std::invalid_argument for rows that cannot be coded or that another thread has changed.
Cascade build_cascade(const Segment& segment, std::size_t d, const CascadeShape& shape,
                      const Execution& execution);

// No row that is coded and no query that is searched for has a larger |value|: the arithmetic of
// the projection stays far from overflow.
inline constexpr double kMostCoded = 0x1p60;
// Tells whether rows of this largest |value| can be coded. The arithmetic must stay far from
// underflow too.
inline bool can_be_coded(double max_abs) {
  return max_abs >= 1 / kMostCoded && max_abs <= kMostCoded;
}

}  // namespace resmem
