#include <stdexcept>
#include <utility>

#include "steps.h"

namespace resmem {

Cascade build_cascade(const Segment& segment, std::size_t d, const CascadeShape& shape,
                      const Execution& execution) {
  if (shape.depth < 4 || shape.depth % 4 != 0 || shape.depth > kMostDepth)
    throw std::invalid_argument("depth must be a multiple of 4 from 4 to 32768");
  if (segment.n == 0 || segment.n >= kNoRow / 2 || !can_be_coded(segment.max_abs))
    throw_uncodable();
  const RowPoints rows(segment, d, shape.metric, execution);
  Cascade cascade;
  cascade.n = segment.n;
  cascade.depth = shape.depth;
  cascade.points = rows.points();

  const PointSample sample = take_sample(rows);
  cascade.projection = find_axes(rows, sample, shape.depth);
  cascade.projection.tail_centre = mean_tail(rows, cascade.projection);
  cascade.scale = code_scale(rows, cascade.projection);

  const std::size_t coordinates = cascade.projection.coordinates();
  cascade.centres = find_centres(rows, cascade.projection, shape.clusters);
  cascade.clusters = cascade.centres.size() / coordinates;

  const ProjectionCodes coded =
      code_projections(rows, cascade.projection, cascade.centres, cascade.scale, shape.depth);
  Arrangement arrangement = arrange(coded, cascade.clusters, coordinates);
  Panels panels = lay_panels(coded, arrangement.rows);
  if (shape.coded_rows) {
    CodedRows second = code_rows(rows, sample, arrangement);
    cascade.code_depth = second.code_depth;
    cascade.steps = std::move(second.steps);
    cascade.code_sum = second.code_sum;
    cascade.largest_square = second.largest_square;
    cascade.codes.own(std::move(second.codes));
    cascade.coded.own(std::move(second.coded));
  }
  cascade.chunks = std::move(arrangement.chunks);
  cascade.find_starts();
  cascade.rows.own(std::move(arrangement.rows));
  cascade.panels.own(std::move(panels.codes));
  cascade.init.own(std::move(panels.init));
  return cascade;
}

}  // namespace resmem
