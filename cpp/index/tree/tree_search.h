// Exact search through a tree: near boxes first, until all that are left are too far.
#pragma once

#include "../../flat/canonical.h"
#include "../../flat/exclusions.h"
#include "tree.h"

namespace resmem {

// Some queries of a request against the rows that a tree covers of one segment.
struct TreeScope {
  const SearchRequest& request;
  const Tree& tree;
  const Segment& segment;
  std::size_t start;  // position of the segment's first row
  const KernelTable& kernels;
  const Exclusions& exclusions;
  std::size_t first, count;  // queries

  const float* query(std::size_t i) const { return request.queries + (first + i) * request.d; }
};

// The k nearest rows of the scope. `found` holds each query's neighbours found elsewhere, at most
// k, and takes up those found here. Throws Interrupted.
void tree_search(const TreeScope& scope, std::vector<std::vector<Neighbour>>& found,
                 SearchStats& stats, Interrupt& interrupt);

// What each node promises of canonical keys, laid open for tests: (q, n, height + 1), of the nodes
// that hold a row from the root down.
void tree_bounds(const TreeScope& scope, double* bounds);

// Queries that are searched together; what is held of each stays within the memory promised.
std::size_t tree_queries(const SearchRequest& request);

}  // namespace resmem
