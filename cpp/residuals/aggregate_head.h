// Sums residuals that are computed when they are asked for.
#pragma once

#include <vector>

#include "aggregate.h"

namespace resmem {

// Does what aggregate() promises, for head rows.
void aggregate_head(const std::vector<HeadRows>& segments, const AggregateRequest& request,
                    const Execution& execution, double* out);

}  // namespace resmem
