// Finds a first reach of a query among the rows of its nearest clusters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coded_row_filter.h"
#include "schedule.h"

namespace resmem {

class Seeds {
 public:
  Seeds(const Cascade& cascade, const IndexScope& scope, const CodedQueries& coded,
        const ThreadPoll& poll, CascadeCandidates& candidates, CodedRowFilter& rows);

  // Takes the rows of some of the query's nearest clusters, and hands the k that look nearest by
  // their codes to the filter of coded rows. It goes on to further clusters until the query has a
  // reach.
  void find(const QueryBlock& block, const Schedule& schedule, std::uint32_t i);

  std::uint64_t pairs_coded = 0;  // as in SearchStats

 private:
  struct Scored {
    std::int32_t score;
    std::uint32_t place;
  };

  void score(const QueryBlock& block, std::size_t i, std::uint32_t cluster);
  void take_nearest(std::uint32_t i, std::vector<std::uint32_t>& taken);

  const Cascade& cascade_;
  const KernelTable& kernels_;
  const CodedQueries& coded_;
  const ThreadPoll& poll_;
  CascadeCandidates& candidates_;
  CodedRowFilter& rows_;
  const std::size_t k_;
  const bool restricted_;  // whether many rows are hidden, of which none may take a seed's place
  std::vector<std::int32_t> scores_;  // of a chunk
  std::vector<Scored> scored_;
  std::vector<Pair> pairs_;
};

}  // namespace resmem
