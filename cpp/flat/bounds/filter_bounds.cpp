#include "filter_bounds.h"

#include "filters.h"

namespace resmem {

namespace {

std::unique_ptr<const FilterBounds> dot_bounds(const SearchRequest& request,
                                               const KernelTable& kernels) {
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

}  // namespace

std::unique_ptr<const FilterBounds> make_filter_bounds(const SearchRequest& request,
                                                       FilterKind filter, bool raw,
                                                       const KernelTable& kernels) {
  switch (filter) {
    case FilterKind::difference:
      return difference_bounds(request, kernels, raw);
    case FilterKind::automatic:
    case FilterKind::dot:
      break;
  }
  return dot_bounds(request, kernels);
}

}  // namespace resmem
