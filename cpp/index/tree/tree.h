// A balanced k-d tree of some rows: cells are cut in two again and again, and each holds its rows
// (README.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../base/execution.h"
#include "../../base/mappable.h"
#include "../../rows/segment.h"
#include "../row_index.h"

namespace resmem {

inline constexpr std::size_t kMostTreeDimensions = 16;

// A node's rows are cut in two here.
struct Split {
  float below, above;  // along the side: the largest of the left rows, the least of the right ones
  std::uint32_t side;
};

// Nodes lie in levels from the root on: children of node i are 2 i + 1 and 2 i + 2, and the last
// level holds 2^height leaves. Node j of level l has the places [j n / 2^l, (j + 1) n / 2^l).
struct Tree final : RowIndex {
  std::size_t n = 0, d = 0, height = 0;
  std::vector<float> box;        // (2, d): least and largest coordinates of all rows
  Mappable<Split> splits;        // of every node but the leaves
  Mappable<std::uint32_t> rows;  // row of each place, ascending within a leaf

  std::size_t leaves() const { return std::size_t{1} << height; }
  // Returns where the places of node j of a level begin. Those of node j end where those of j + 1
  // begin.
  std::size_t place(std::size_t j, std::size_t level) const { return j * n >> level; }

  // Checks a tree that was read from a file. Throws std::invalid_argument if a search could read
  // beyond anything.
  void complete() const;

  const IndexKind& kind() const override;
  std::size_t covers() const override { return n; }
  std::size_t dimensions() const override { return d; }
  std::size_t bytes() const override {
    return 4 * (rows.size() + box.size()) + sizeof(Split) * splits.size();
  }
  std::uint64_t digest() const override;
  bool serves_metric(Metric metric) const override { return is_euclidean(metric); }
  bool serves(const SearchRequest& request) const override { return serves_metric(request.metric); }
  std::size_t queries_together(const SearchRequest& request) const override;
  void search(const IndexScope& scope, const IndexOutput& output) const override;
};

// Builds a tree of rows [0, segment.n) of a segment, with at least `leaf` of them in a leaf if
// there are so many (0 stands for the size that measured best). The tree does not depend on the
// number of threads. Throws Interrupted, and std::invalid_argument for rows that are not finite.
Tree build_tree(const Segment& segment, std::size_t d, std::size_t leaf,
                const Execution& execution);

}  // namespace resmem
