// Corrects in one call, so that the neighbours found never leave the core.
#pragma once

#include "../residuals/aggregate.h"
#include "search.h"

namespace resmem {

// Searches for the neighbours of the queries and aggregates their residuals into `out`, (q, width),
// as `aggregate` does. `residuals` says whose residuals. Its distances and positions are replaced
// by those found here, and its q and k by those of the search. Distances are the values of the
// search, but inner products are negated, so that these ascend too. Throws DamagedRows and
// Interrupted.
SearchStats correct(const SearchRequest& search_request, AggregateRequest residuals,
                    const Execution& execution, double* out);

}  // namespace resmem
