// A selection holds one thread's candidates: the rows that may be among the k nearest of each query
// of a block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../kernels/table.h"
#include "../rows/row_set.h"
#include "bounds/filter_bounds.h"
#include "request.h"

namespace resmem {

// A row that may be among the k nearest, given by its score's bracket (slack left out) and
// position.
struct Candidate {
  float high, low;
  std::size_t position;
};

// A row that was pushed is dropped only if bounds, or canonical keys, prove that k other rows of
// its query come before it. Thresholds only rise, and a row whose score is below the threshold of
// its query need not be pushed. A query whose candidates can be separated neither by bounds nor by
// keys is deferred: it keeps no candidates, its threshold is infinite, and another filter must
// search for it.
class Selection {
 public:
  // Holds up to `capacity` candidates of each query, which is more than k.
  Selection(const SearchRequest& request, const RowSet& rows, const KernelTable& kernels,
            const FilterBounds& bounds, std::size_t capacity);

  // Takes up a block of queries, given by number. Thresholds are kept for whole panels of `lanes`
  // queries. Lanes without a query have an infinite one, which no score reaches.
  void begin(const std::size_t* queries, const std::vector<StagedQuery>& staged, std::size_t lanes);

  // From here on, queries count from the block's first. A score must reach its query's threshold.
  const float* thresholds() const { return thresholds_.data(); }
  // Takes up a row whose score reaches it. Rows come in ascending positions.
  void push(std::size_t query, const Candidate& candidate) {
    if (count_[query] == capacity_) {
      thin(query);
      if (candidate.high < thresholds_[query]) return;
    }
    pool_[query * capacity_ + count_[query]++] = candidate;
  }
  // Raises the thresholds to what the candidates tell, before any buffer is full.
  void tighten();

  const StagedQuery& staged(std::size_t query) const { return staged_[query]; }
  const Candidate* candidates(std::size_t query) const { return &pool_[query * capacity_]; }
  std::size_t candidate_count(std::size_t query) const { return count_[query]; }
  bool deferred(std::size_t query) const { return deferred_[query] != 0; }

  SearchStats stats;

 private:
  void thin(std::size_t query);
  void thin_exactly(std::size_t query, const KeyScores& scores);
  void defer(std::size_t query);

  const SearchRequest& request_;
  const RowSet& rows_;
  const KernelTable& kernels_;
  const FilterBounds& bounds_;
  const std::size_t capacity_;

  const std::size_t* queries_ = nullptr;
  std::vector<StagedQuery> staged_;
  std::vector<float> thresholds_;  // whole panels
  std::vector<std::uint8_t> deferred_;
  std::vector<std::size_t> count_;
  std::vector<Candidate> pool_;  // (queries, capacity)
  std::vector<float> lows_;      // scratch of thin()
};

}  // namespace resmem
