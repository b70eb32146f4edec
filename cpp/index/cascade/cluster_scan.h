// Takes some queries past the rows of a cluster, by the bounds of chunks and by coded projections.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coded_row_filter.h"

namespace resmem {

class ClusterScan {
 public:
  ClusterScan(const Cascade& cascade, const KernelTable& kernels, const CodedQueries& coded,
              const ThreadPoll& poll, CascadeCandidates& candidates, CodedRowFilter& rows);

  // Hands the rows that may be within reach of these queries to the filter of coded rows, chunk by
  // chunk. `away` has the distances of the block's queries from the cluster's centre, or is null.
  void visit(const QueryBlock& block, std::uint32_t cluster,
             const std::vector<std::uint32_t>& queries, const double* away);

  std::uint64_t pairs_coded = 0, code_hits = 0;  // as in SearchStats

 private:
  void choose(const QueryBlock& block, const Chunk& chunk,
              const std::vector<std::uint32_t>& queries, const double* away);
  void take_all(const Chunk& chunk, std::uint32_t i);
  void scan(const Chunk& chunk);
  void pair_by_row(const Chunk& chunk, std::size_t found);

  const Cascade& cascade_;
  const KernelTable& kernels_;
  const CodedQueries& coded_;
  const ThreadPoll& poll_;
  CascadeCandidates& candidates_;
  CodedRowFilter& rows_;
  // These belong to the queries for which a chunk is scanned.
  std::vector<std::uint32_t> active_;
  std::vector<const std::uint8_t*> codes_;
  std::vector<std::int32_t> thresholds_;
  std::vector<CodeHit> hits_;
  std::vector<Pair> pairs_;
};

}  // namespace resmem
