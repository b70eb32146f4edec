// Finds the exact k nearest neighbours, through the indexes of segments where these serve.
#pragma once

#include "../flat/flat_search.h"

namespace resmem {

// Fills the output as CONTRACT.md says. Throws Interrupted.
SearchStats search(const SearchRequest& request, const Execution& execution,
                   const SearchOutput& output);

}  // namespace resmem
