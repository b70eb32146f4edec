// Finds the exact k nearest neighbours without an index: it filters, certifies and rescores.
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
  // If this is set, it takes the place of all these and gets what was found for each query, at most
  // k neighbours in any order.
  std::vector<std::vector<Neighbour>>* found = nullptr;

  // Writes the neighbours of one query, at most k of them, in canonical order.
  void write(const SearchRequest& request, std::size_t query,
             std::vector<Neighbour>& neighbours) const;
};

// Returns how many queries may have their neighbours held together. Each holds one neighbour more
// than it keeps in the end.
inline std::size_t queries_held(const SearchRequest& request, std::size_t threads) {
  constexpr std::size_t kFoundBytes = std::size_t{16} << 20;
  const std::size_t each = sizeof(Neighbour) * (request.k + 1) + sizeof(std::uint64_t);
  return std::clamp<std::size_t>(kFoundBytes / each, threads, 1 << 16);
}

// Fills the output as CONTRACT.md says, without asking the indexes of segments. Throws Interrupted.
SearchStats flat_search(const SearchRequest& request, const Execution& execution,
                        const SearchOutput& output);

// Finds the brackets, (q, n) each, in which the filter promises that each canonical key lies. Tests
// compare them with the keys. The request has one segment.
void filter_brackets(const SearchRequest& request, const KernelTable& kernels, double* low,
                     double* high);

}  // namespace resmem
