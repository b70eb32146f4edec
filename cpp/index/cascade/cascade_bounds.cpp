#include "cascade_bounds.h"

#include <cmath>
#include <vector>

#include "coded_queries.h"

namespace resmem {

void cascade_bounds(const Cascade& cascade, const IndexScope& scope, const CascadeBounds& bounds) {
  const CodedQueries queries(cascade, scope);
  std::vector<float> scratch(scope.request.d);
  for (std::size_t i = 0; i < scope.count; ++i) {
    const CanonicalKey& key = queries.canonical(i);
    for (const Chunk& chunk : cascade.chunks)
      for (std::size_t place = chunk.first; place < chunk.first + chunk.count; ++place) {
        if (cascade.rows[place] == kNoRow) continue;
        const std::size_t at = i * cascade.n + cascade.rows[place];
        double square = 0;
        for (std::size_t p = 0; p < cascade.projection.coordinates(); ++p) {
          const int apart = cascade.panels[in_panels(place, p, cascade.depth)] + kQueryOffset -
                            static_cast<int>(queries.codes(i)[p]);
          square += apart * apart;
        }
        bounds.by_cluster[at] =
            chunk.cluster < cascade.clusters
                ? queries.nearest_in_chunk(chunk, queries.away(i)[chunk.cluster], queries[i].slack)
                : 0;
        bounds.by_projection[at] = (std::sqrt(square) - std::sqrt(queries.largest_code_square(
                                                            chunk, 0, queries[i].error))) /
                                   cascade.scale;
        if (cascade.code_depth > 0) {
          double coded;
          queries.coded_squares(place, &i, 1, &coded);
          bounds.low[at] = queries.low(i, coded, queries.coded_error(i, place));
          bounds.high[at] = queries.high(i, coded, queries.coded_error(i, place));
        }
        const double found =
            key(scope.segment.keys.read(cascade.rows[place] * scope.request.d, scope.request.d,
                                        scratch.data(), scope.execution.kernels));
        bounds.key_low[at] = queries[i].keys.low(found);
        bounds.key_high[at] = queries[i].keys.high(found);
      }
  }
}

}  // namespace resmem
