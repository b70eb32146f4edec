// Decides which clusters a block of queries visits, and in which order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "block.h"

namespace resmem {

// Clusters are shared out in parts, one for each task of a block. The number of clusters stands for
// the outliers, the rows at the end whose codes are far off; one part has them.
class Schedule {
 public:
  Schedule(const Cascade& cascade, const CodedQueries& coded) : cascade_(cascade), coded_(coded) {}

  // Takes up a block, and one of so many parts of the clusters.
  void begin(const QueryBlock& block, std::size_t part, std::size_t parts);

  // Returns the part's clusters, from near to far as the block sees them.
  const std::vector<std::uint32_t>& clusters() const { return clusters_; }
  bool has_outliers() const { return has_outliers_; }
  std::uint32_t outliers() const { return static_cast<std::uint32_t>(cascade_.clusters); }

  // Every query has so many nearest clusters of the part, ranked from the nearest on.
  std::size_t near_count() const { return near_count_; }
  std::uint32_t near(std::size_t i, std::size_t rank) const {
    return near_[i * near_count_ + rank];
  }
  // Returns each of these once. Those that are among the first of many queries come early.
  std::vector<std::uint32_t> near_clusters() const;
  // Finds the queries that have the cluster among their nearest.
  void near_queries(std::uint32_t cluster, std::vector<std::uint32_t>& queries) const;

  // Returns the distances of the block's queries from the centre of a cluster, infinite for those
  // that have visited it. The outliers have no centre, and this gives null.
  const double* away(std::uint32_t cluster) const {
    return cluster < cascade_.clusters ? &away_[cluster * count_] : nullptr;
  }
  void visited(std::uint32_t cluster, const std::vector<std::uint32_t>& queries);

 private:
  void find_clusters(const QueryBlock& block, std::size_t part, std::size_t parts);
  void find_near(std::size_t i);

  const Cascade& cascade_;
  const CodedQueries& coded_;
  std::size_t count_ = 0;  // queries of the block
  std::vector<std::uint32_t> clusters_;
  bool has_outliers_ = false;
  std::size_t near_count_ = 0;
  std::vector<std::uint32_t> near_;   // (count, near_count)
  std::vector<double> away_;          // (clusters, count)
  std::vector<std::uint32_t> order_;  // scratch
};

}  // namespace resmem
