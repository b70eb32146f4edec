// Every index of rows does this for a search. The search knows no kind of index, but asks whatever
// is built beside the rows of a segment through this interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../base/execution.h"
#include "../flat/canonical.h"
#include "../flat/visibility.h"

namespace resmem {

// A kind of index is told apart by these, in statistics and in messages.
struct IndexKind {
  const char* name;    // SearchStats::strategy
  const char* filter;  // SearchStats::filter, which names what rules rows out
  // One search may meet several kinds. Its statistics name the kind of the highest precedence, and
  // of several kinds with that precedence the one whose segment comes first.
  int precedence;
};

// Some queries of a request, and the segment whose first rows an index covers.
struct IndexScope {
  const SearchRequest& request;
  const Segment& segment;
  std::size_t start;  // position of the segment's first row
  const Execution& execution;
  const Visibility& visibility;
  std::size_t first, count;  // queries

  // Returns query i, counted from the first. An index serves float32 queries only.
  const float* query(std::size_t i) const { return request.queries + (first + i) * request.d; }
};

// An index leaves here what it finds.
struct IndexOutput {
  // Each query of the scope has at most k neighbours, in any order. At first they are those found
  // elsewhere, and afterwards the nearest of those and of the rows that the index covers.
  std::vector<std::vector<Neighbour>>& found;
  // Each query of the request has a flag, which is set to 1 if the index gives the query up. Such a
  // query is searched again, by the flat search and among all rows, and what was found for it does
  // not matter.
  std::vector<std::uint8_t>& deferred;
  SearchStats& stats;  // what was done is added to it
};

// An index covers the rows 0 to n - 1 of one segment and never changes. Many searches may use it at
// once. Results have the bits of CONTRACT.md: an index may pass over a row only if it has proven
// that the row is not among the k nearest that the query may see.
class RowIndex {
 public:
  virtual ~RowIndex() = default;

  virtual const IndexKind& kind() const = 0;
  virtual std::size_t covers() const = 0;      // n, at least 1
  virtual std::size_t dimensions() const = 0;  // of a row
  virtual std::size_t bytes() const = 0;       // of memory or of a mapped file
  virtual std::uint64_t digest() const = 0;    // of everything in it (FNV-1a)

  // Tells whether its bounds hold for this metric.
  virtual bool serves_metric(Metric metric) const = 0;
  // Tells whether its bounds hold for the request's metric and numbers. If not, the flat search
  // answers.
  virtual bool serves(const SearchRequest& request) const = 0;
  // Returns how many queries, at least one, may be searched together so that what this index holds
  // of each stays within the memory promised.
  virtual std::size_t queries_together(const SearchRequest& request) const = 0;
  // Searches the scope, whose request it serves. Throws Interrupted.
  virtual void search(const IndexScope& scope, const IndexOutput& output) const = 0;

 protected:
  RowIndex() = default;
  RowIndex(const RowIndex&) = default;
  RowIndex(RowIndex&&) = default;
  RowIndex& operator=(const RowIndex&) = default;
  RowIndex& operator=(RowIndex&&) = default;
};

}  // namespace resmem
