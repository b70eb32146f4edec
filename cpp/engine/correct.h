// Correction in one call: the neighbours found never leave the core.
#pragma once

#include "../residuals/aggregate.h"
#include "search.h"

namespace resmem {

// Searches for the neighbours of the queries and aggregates their residuals into `out`, (q, width),
// as `aggregate` does. `residuals` says of what; its distances and positions are those found here,
// its q and k those of the search, whose metric must be euclidean. Throws DamagedRows, Interrupted.
SearchStats correct(const SearchRequest& search_request, AggregateRequest residuals,
                    const Execution& execution, double* out);

}  // namespace resmem
