#include "correct.h"

#include <memory>

namespace resmem {
namespace {

// Makes distances, which ascend, of the values of a search, in place.
void to_distances(double* values, std::size_t count, Metric metric) {
  if (metric != Metric::inner_product) return;
  for (std::size_t i = 0; i < count; ++i) values[i] = 0.0 - values[i];
}

}  // namespace

SearchStats correct(const SearchRequest& search_request, AggregateRequest residuals,
                    const Execution& execution, double* out) {
  const std::size_t pairs = search_request.q * search_request.k;
  // The search fills these wholly, so they are not set to zero first.
  const std::unique_ptr<double[]> distances(new double[pairs]);
  const std::unique_ptr<std::int64_t[]> positions(new std::int64_t[pairs]);
  SearchOutput found;
  found.values = distances.get();
  found.positions = positions.get();
  const SearchStats stats = search(search_request, execution, found);
  to_distances(distances.get(), pairs, search_request.metric);
  residuals.distances = distances.get();
  residuals.positions = positions.get();
  residuals.q = search_request.q;
  residuals.k = search_request.k;
  aggregate(residuals, execution, out);
  return stats;
}

}  // namespace resmem
