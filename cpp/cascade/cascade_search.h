// Exact search through a cascade: cluster bounds, coded projections, coded rows, canonical keys.
#pragma once

#include "../core/canonical.h"
#include "../core/row_set.h"
#include "cascade.h"

namespace resmem {

// The k nearest rows that `cascade` covers of one segment, whose first position is `start`, for
// queries [first, first + count) of the request. `found` holds each query's neighbours found
// elsewhere, at most k, and takes up those found here; `deferred` marks queries that it gave up,
// because too many of their rows passed. Throws Interrupted.
void cascade_search(const SearchRequest& request, const Cascade& cascade, const Segment& segment,
                    std::size_t start, const KernelTable& kernels, const Exclusions& exclusions,
                    std::size_t first, std::size_t count,
                    std::vector<std::vector<Neighbour>>& found, std::vector<std::uint8_t>& deferred,
                    SearchStats& stats, Interrupt& interrupt);

// What every stage promises of the true distances, laid open for tests: lower ends by the cluster
// and by the coded projection, both ends by the coded row (if there are any). (q, n) each.
struct CascadeBounds {
  double *by_cluster, *by_projection, *low, *high;
};
void cascade_bounds(const SearchRequest& request, const Cascade& cascade,
                    const KernelTable& kernels, const CascadeBounds& bounds);

// Queries that are searched together; what is held of each stays within the memory promised.
std::size_t cascade_queries(const SearchRequest& request, const Cascade& cascade);

}  // namespace resmem
