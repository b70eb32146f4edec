// Searches among some rows only, which are given by their positions. Few such rows are copied and
// searched alone. Otherwise all rows are searched, with one bit per row that says whether a query
// may see it.
#pragma once

#include <cstdint>
#include <vector>

#include "../flat/flat_search.h"

namespace resmem {

// Tells whether copying the rows that queries may see is faster than searching all of them.
// `indexed`: whether indexes serve the search of all rows.
bool worth_gathering(const SearchRequest& request, bool indexed);

// Copies the rows that queries may see, a part at a time, and searches the copies. Fills the output
// as CONTRACT.md says. Throws Interrupted.
SearchStats search_gathered(const SearchRequest& request, const Execution& execution,
                            const SearchOutput& output);

// Holds a request of which only some rows may be seen, as bits of its segments.
struct MaskedRows {
  explicit MaskedRows(const SearchRequest& all);
  MaskedRows(const MaskedRows&) = delete;
  MaskedRows& operator=(const MaskedRows&) = delete;

  SearchRequest request;

 private:
  std::vector<std::uint8_t> bits;
};

}  // namespace resmem
