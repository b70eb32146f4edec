// Keeps what a block's queries have found so far, and how far their k nearest rows can be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "key_queue.h"

namespace resmem {

// A row is dropped only if its distance is proven to exceed the reach of its query, the distance
// that no row among the k nearest exceeds. A reach only falls.
class CascadeCandidates {
 public:
  CascadeCandidates(const Cascade& cascade, const IndexScope& scope, const CodedQueries& coded,
                    KeyQueue& keys);

  // Takes up a block. `found` holds neighbours of each query of the scope that were found
  // elsewhere. They count towards the k.
  void begin(const QueryBlock& block, const std::vector<std::vector<Neighbour>>& found);

  // The reach of a query that gave up is -infinity, so that nothing lies within it.
  double reach(std::size_t i) const { return reach_[i]; }
  bool gave_up(std::size_t i) const { return queries_[i].gave_up; }

  // Counts rows of query i that have passed the bounds of the projection. If these are too many,
  // the query gives up.
  void count_passed(std::size_t i, std::size_t rows);
  // Takes up a row that the query may see.
  void keep(std::size_t i, const CascadeCandidate& candidate);
  // Finds the keys of the k nearest so far. Bounds by coded rows make the reach larger than it need
  // be, and it should be small before most rows are looked at. Queries of a block share many of
  // these rows, so that doing it for all of them together saves reads.
  void settle();
  // Adds to `found` what may be among the k nearest rows of query i, with canonical keys. This must
  // be the last call for the query.
  void finish(std::size_t i, std::vector<Neighbour>& found);

  std::uint64_t thinnings = 0, exact_thinnings = 0;  // as in SearchStats

 private:
  struct OfQuery {
    std::size_t passed;  // rows
    bool gave_up;
    bool goes_on;  // it does not give up, however many rows pass
    std::vector<CascadeCandidate> pool;
    std::vector<double> ends;  // a heap of the k smallest upper ends
  };

  const KeyDistance& keys_of(std::size_t i) const { return coded_[block_->number(i)].keys; }
  void tighten(std::size_t i, double kth);
  void thin(std::size_t i);
  void rebuild_ends(std::size_t i);

  const Cascade& cascade_;
  const IndexScope& scope_;
  const CodedQueries& coded_;
  KeyQueue& keys_;
  const std::size_t k_, capacity_;  // of a pool
  const std::size_t most_passed_;
  const QueryBlock* block_ = nullptr;
  std::vector<double> reach_;
  std::vector<OfQuery> queries_;
  std::size_t going_on_ = 0;
};

}  // namespace resmem
