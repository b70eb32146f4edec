// What a search is asked, and what it reports.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../rows/segment.h"

namespace resmem {

// Blocks have these sizes. A 0 lets the planner choose. Results never depend on them.
struct Blocks {
  std::size_t queries = 0;  // queries a task holds (5th loop)
  std::size_t rows = 0;     // mc: staged rows (4th loop)
  std::size_t depth = 0;    // kc (2nd loop)
  std::size_t buffer = 0;   // candidates held per query before they are thinned
};

enum class Strategy { automatic, by_queries, by_rows, stream, exact };
enum class FilterKind { automatic, dot, difference };

// What tests force of the plan that the search makes for itself otherwise. Results never depend on
// it.
struct ForcedPlan {
  Strategy strategy = Strategy::automatic;
  FilterKind filter = FilterKind::automatic;
  Blocks blocks;
};

// Each query has a list of `width` numbers, -1 for none.
struct NumberLists {
  const std::int64_t* numbers = nullptr;  // (q, width), or null
  std::size_t width = 0;

  NumberLists from(std::size_t query) const {
    return {numbers == nullptr ? nullptr : numbers + query * width, width};
  }
};

struct SearchRequest {
  // Queries are (q, d), row-major and finite, and one of the two pointers is set. Float64 queries
  // ask for float64 keys in every segment, float32 queries for keys that are no wider.
  const float* queries = nullptr;
  const double* queries64 = nullptr;
  std::size_t q = 0, d = 0, k = 0;
  double queries_max_abs = 0;
  std::vector<Segment> segments;
  Metric metric = Metric::euclidean;
  std::int64_t version = 0;  // rows removed at this version or before are not seen
  NumberLists exclude;       // ids of rows that a query must not see
  NumberLists exclude_groups;
  const std::int64_t* before = nullptr;  // (q,): a query sees rows of smaller times only; or null
  AmongRows among;
  ForcedPlan forced;

  bool wide() const { return queries64 != nullptr; }
  // Returns the same request for `count` queries from the `first` on.
  SearchRequest part(std::size_t first, std::size_t count) const {
    SearchRequest some = *this;
    if (queries != nullptr) some.queries += first * d;
    if (queries64 != nullptr) some.queries64 += first * d;
    some.exclude = exclude.from(first);
    some.exclude_groups = exclude_groups.from(first);
    if (before != nullptr) some.before += first;
    some.q = count;
    return some;
  }
};

// These numbers say what really ran, summed over threads. Tests assert them.
struct SearchStats {
  std::string isa, strategy, filter;
  std::uint64_t pairs_filtered = 0;   // (row, query) pairs scored by a filter kernel
  std::uint64_t hits = 0;             // pairs that reached their threshold
  std::uint64_t thinnings = 0;        // times a candidate buffer was cut by bounds
  std::uint64_t exact_thinnings = 0;  // times bounds could not cut it and distances did
  std::uint64_t deferred = 0;         // queries handed from the dot to the difference filter
  std::uint64_t rescored = 0;         // canonical distances computed
  std::uint64_t rows_gathered = 0;    // rows copied, as queries may see these alone
  // Cascades count these (cpp/index/cascade):
  std::uint64_t pairs_coded = 0;  // (row, query) pairs scored by their coded projections
  std::uint64_t code_hits = 0;    // pairs that reached their threshold there
  std::uint64_t rows_coded = 0;   // distances bounded by coded rows
  std::uint64_t given_up = 0;     // queries that an index left to the flat search
  // Trees count these (cpp/index/tree):
  std::uint64_t boxes = 0;  // distances of boxes computed

  void add(const SearchStats& part) {
    pairs_filtered += part.pairs_filtered;
    hits += part.hits;
    thinnings += part.thinnings;
    exact_thinnings += part.exact_thinnings;
    deferred += part.deferred;
    rescored += part.rescored;
    rows_gathered += part.rows_gathered;
    pairs_coded += part.pairs_coded;
    code_hits += part.code_hits;
    rows_coded += part.rows_coded;
    boxes += part.boxes;
  }
};

}  // namespace resmem
