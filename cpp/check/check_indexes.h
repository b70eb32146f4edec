// Checks searches through indexes of every kind.
#pragma once

#include "context.h"
#include "search_case.h"

namespace resmem {

// Searches through indexes of all segments that can have one, of every kind that serves the
// request.
void check_indexes(Context& context, const SearchCase& search_case);
// Throws unless some search went through each kind of index, as the cases would prove too little.
void require_every_index_served(const Context& context);

}  // namespace resmem
