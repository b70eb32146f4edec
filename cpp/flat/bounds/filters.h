// Every filter has its line here and is made by its own file.
#pragma once

#include <memory>

#include "filter_bounds.h"

namespace resmem {

using FilterBoundsPtr = std::unique_ptr<const FilterBounds>;

FilterBoundsPtr euclidean_dot_bounds(const SearchRequest& request, const KernelTable& kernels);
FilterBoundsPtr inner_product_bounds(const SearchRequest& request, const KernelTable& kernels);
FilterBoundsPtr cosine_bounds(const SearchRequest& request, const KernelTable& kernels);
FilterBoundsPtr difference_bounds(const SearchRequest& request, const KernelTable& kernels,
                                  bool raw);

}  // namespace resmem
