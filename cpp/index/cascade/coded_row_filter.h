// Looks at rows that passed the projection one by one, and bounds their distances by their own
// codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "candidates.h"

namespace resmem {

// A cascade without coded rows has no such codes. Then the filter finds the canonical keys at once.
class CodedRowFilter {
 public:
  CodedRowFilter(const Cascade& cascade, const IndexScope& scope, const CodedQueries& coded,
                 KeyQueue& keys, CascadeCandidates& candidates)
      : cascade_(cascade), scope_(scope), coded_(coded), keys_(keys), candidates_(candidates) {}

  void begin(const QueryBlock& block);
  // Hands the pairs that may be within reach to the candidates, unless the query must not see the
  // row. The pairs are overwritten. Those of one row should follow one another, as they then share
  // one read of its codes.
  void take(std::vector<Pair>& pairs);
  // Says that query i has been given these places, which ascend. take() then leaves them out.
  void mark_taken(std::size_t i, std::vector<std::uint32_t>&& places) {
    taken_[i] = std::move(places);
  }

  // Tells whether there is a row at the pair's place that its query may see.
  bool sees(const Pair& pair) const;

  std::uint64_t rows_coded = 0;  // as in SearchStats

 private:
  void keep_visible(std::vector<Pair>& pairs);
  void bound_by_codes(std::vector<Pair>& pairs);
  void prefetch(std::uint32_t place) const;

  const Cascade& cascade_;
  const IndexScope& scope_;
  const CodedQueries& coded_;
  KeyQueue& keys_;
  CascadeCandidates& candidates_;
  const QueryBlock* block_ = nullptr;
  std::vector<std::vector<std::uint32_t>> taken_;  // places, of each query
  std::vector<double> squares_;                    // of pairs, by coded rows
  std::vector<CascadeCandidate> fresh_;
};

}  // namespace resmem
