// Exact search through a cascade: cluster bounds, coded projections, coded rows, canonical keys.
#pragma once

#include "../../flat/canonical.h"
#include "coded_queries.h"

namespace resmem {

// The k nearest rows of the scope. `found` holds each query's neighbours found elsewhere, at most
// k, and takes up those found here; `deferred` marks queries of the request that it gave up,
// because too many of their rows passed. Throws Interrupted.
void cascade_search(const CascadeScope& scope, std::vector<std::vector<Neighbour>>& found,
                    std::vector<std::uint8_t>& deferred, SearchStats& stats, Interrupt& interrupt);

// What every stage promises of the distances between exact points, laid open for tests: lower ends
// by the cluster and by the coded projection, both ends by the coded row (if there are any) and by
// the canonical key. (q, n) each.
struct CascadeBounds {
  double *by_cluster, *by_projection, *low, *high, *key_low, *key_high;
};
void cascade_bounds(const CascadeScope& scope, const CascadeBounds& bounds);

// Queries that are searched together; what is held of each stays within the memory promised.
std::size_t cascade_queries(const SearchRequest& request, const Cascade& cascade);

}  // namespace resmem
