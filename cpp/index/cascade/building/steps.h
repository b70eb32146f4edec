// The steps that build a cascade, in their order. A step reads what it is given and changes nothing
// of it. Its result depends on that alone, whatever the kernels and the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../../base/aligned.h"
#include "../cascade.h"
#include "row_points.h"

namespace resmem {

// 1. sample.cpp draws the points on which axes and steps of codes are found.
struct PointSample {
  std::size_t count = 0;
  std::vector<float> offset;    // (d,): the mean of these points
  std::vector<double> centred;  // (count, d): the points less the offset
};
PointSample take_sample(const RowPoints& rows);

// 2. axes.cpp finds the projection onto the leading principal directions of the sample. `depth` is
// the number of codes of a row, and the tail is not centred yet.
Projection find_axes(const RowPoints& rows, const PointSample& sample, std::size_t depth);

// 3. projected.cpp computes Phi of the chosen rows. The steps below all need it. Its result and
// that of nearest_centres() are handed in, so that block after block uses the same memory.
struct Projected {
  std::vector<float> phi;    // (chosen, coordinates)
  std::vector<float> slack;  // (chosen,): how far phi can be from the exact one
};
void project(const RowPoints& rows, const Projection& projection,
             const std::vector<std::size_t>& chosen, Role role, Projected& result);

// 4. scale.cpp measures some rows. Their mean tail becomes Projection::tail_centre. With that set,
// their distances give the number of codes per unit of length, if queries are like rows.
double mean_tail(const RowPoints& rows, const Projection& projection);
double code_scale(const RowPoints& rows, const Projection& projection);

// 5. clusters.cpp finds centres, (at most `clusters`, coordinates), by k-means on Phi of some rows.
std::vector<float> find_centres(const RowPoints& rows, const Projection& projection,
                                std::size_t clusters);
struct NearestCentres {
  std::vector<std::int64_t> label;
  std::vector<double> away;  // the canonical distance from that centre
};
// Finds the nearest centre of each phi. Both have `coordinates` numbers a row.
void nearest_centres(const std::vector<float>& phi, const std::vector<float>& centres,
                     std::size_t coordinates, const Execution& execution, NearestCentres& result);

// 6. projection_codes.cpp codes Phi of all rows, in the order of the rows.
struct ProjectionCodes {
  std::size_t depth = 0;
  std::vector<std::uint32_t> label;  // (n,): the nearest centre
  std::vector<double> away;          // (n,): the canonical distance from it
  std::vector<float> slack;          // (n,): how far the computed Phi can be from the exact one
  std::vector<float> error;          // (n,): how far the coded Phi can be from the exact one
  std::vector<std::int8_t> codes;    // (n, depth)
};
ProjectionCodes code_projections(const RowPoints& rows, const Projection& projection,
                                 const std::vector<float>& centres, double scale,
                                 std::size_t depth);

// 7. arrangement.cpp gives every row a place, by cluster and by distance from its centre, in chunks
// of whole panels, and lays the codes of Phi out in that order.
struct Arrangement {
  AlignedVector<std::uint32_t> rows;  // the row of each place, kNoRow for padding
  std::vector<Chunk> chunks;          // ascending by cluster, and last the outliers
};
Arrangement arrange(const ProjectionCodes& coded, std::size_t clusters, std::size_t coordinates);
struct Panels {
  AlignedVector<std::int8_t> codes;  // kernels/table.h, CodeScanArgs
  AlignedVector<std::int32_t> init;  // of each place
};
Panels lay_panels(const ProjectionCodes& coded, const AlignedVector<std::uint32_t>& rows);

// 8. coded_rows.cpp codes the points themselves in 8 bits, every dimension with a step of its own.
struct CodedRows {
  std::size_t code_depth = 0;        // d, padded for the kernel
  std::vector<float> steps;          // (d,)
  AlignedVector<std::int8_t> codes;  // (places, code_depth)
  AlignedVector<CodedRow> coded;     // (places,)
  double code_sum = 0;               // no row's sum |code| is larger
  double largest_square = 0;         // no row's |steps * code|^2 is larger
};
CodedRows code_rows(const RowPoints& rows, const PointSample& sample,
                    const Arrangement& arrangement);

}  // namespace resmem
