#include "filter_bounds.h"

#include "filters.h"

namespace resmem {

std::unique_ptr<const FilterBounds> make_filter_bounds(const SearchRequest& request,
                                                       FilterKind filter, bool raw,
                                                       const KernelTable& kernels) {
  if (filter == FilterKind::difference) return difference_bounds(request, kernels, raw);
  switch (request.metric) {
    case Metric::cosine:
      return cosine_bounds(request, kernels);
    case Metric::inner_product:
      return inner_product_bounds(request, kernels);
    case Metric::euclidean:
    case Metric::sqeuclidean:
      break;
  }
  return euclidean_dot_bounds(request, kernels);
}

}  // namespace resmem
