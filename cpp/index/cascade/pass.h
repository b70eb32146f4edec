// A pass is the work of one thread: it takes a block of queries past the clusters of a cascade, or
// past a part of them.
#pragma once

#include <algorithm>
#include <vector>

#include "cluster_scan.h"
#include "schedule.h"
#include "seeds.h"

namespace resmem {

// Puts the parts together that README.md describes: the schedule says which queries visit which
// clusters, the scan and the filter of coded rows rule rows out, the candidates keep the others,
// and the queue finds their keys.
class CascadePass {
 public:
  // Returns how many queries a block may have, so that what is held of them stays within a few
  // megabytes.
  static std::size_t most_queries(std::size_t k) {
    constexpr std::size_t kBytes = std::size_t{8} << 20, kLeast = 8;
    return std::clamp(kBytes / (k * (2 * sizeof(CascadeCandidate) + sizeof(double))), kLeast,
                      kBlockQueries);
  }
  CascadePass(const Cascade& cascade, const IndexScope& scope, const CodedQueries& coded);
  CascadePass(const CascadePass&) = delete;  // its parts refer to each other
  CascadePass& operator=(const CascadePass&) = delete;

  // Takes a block of queries, given by number, past one of so many parts of the clusters. `found`
  // holds neighbours that were found elsewhere. They count towards the k.
  void run(const std::uint32_t* queries, std::size_t count, std::size_t part, std::size_t parts,
           const std::vector<std::vector<Neighbour>>& found, bool calling_thread);

  // After run(), of the block's query i: whether too many of its rows passed; and if not, what may
  // be among its k nearest, with canonical keys.
  bool gave_up(std::size_t i) const { return candidates_.gave_up(i); }
  void finish(std::size_t i, std::vector<Neighbour>& found) { candidates_.finish(i, found); }

  // Counts everything done since the pass was made.
  SearchStats stats() const;

 private:
  bool lies_far_out(std::size_t i) const;
  void visit(std::uint32_t cluster);
  void visit_outliers(bool far_out);
  void visit_near();
  void visit_others();

  const Cascade& cascade_;
  const CodedQueries& coded_;
  ThreadPoll poll_;
  QueryBlock block_;
  Schedule schedule_;
  KeyQueue keys_;
  CascadeCandidates candidates_;
  CodedRowFilter rows_;
  ClusterScan scan_;
  Seeds seeds_;
  std::vector<std::uint32_t> visitors_;  // queries that visit a cluster
};

}  // namespace resmem
