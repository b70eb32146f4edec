// Exact k nearest neighbours among rows that have no index: filter, certify, rescore.
#pragma once

#include <vector>

#include "../base/execution.h"
#include "canonical.h"
#include "request.h"

namespace resmem {

// (q, k) each; ids, and positions numbered through all segments, may be left out.
struct SearchOutput {
  double* values = nullptr;
  std::int64_t* ids = nullptr;
  std::int64_t* positions = nullptr;
  // Instead of all these: what was found for each query, at most k, in any order.
  std::vector<std::vector<Neighbour>>* found = nullptr;

  // The neighbours of one query, at most k of which are written, in canonical order.
  void write(const SearchRequest& request, std::size_t query,
             std::vector<Neighbour>& neighbours) const;
};

// Fills the output as CONTRACT.md says; indexes of segments are not asked. Throws Interrupted.
SearchStats flat_search(const SearchRequest& request, const Execution& execution,
                        const SearchOutput& output);

// The brackets in which the filter believes each canonical key to lie, (q, n) each: what the
// certificate promises, laid open for tests. One segment.
void filter_brackets(const SearchRequest& request, const KernelTable& kernels, double* low,
                     double* high);

}  // namespace resmem
