#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "tree_bounds.h"

namespace resmem {
namespace {

constexpr std::size_t kQueryBytes = std::size_t{16} << 20;
constexpr std::size_t kBlockQueries = 64;   // of a task
constexpr std::size_t kOrderQueries = 256;  // fewer are not worth sorting

// A cell is a node with the point in it that is nearest to a query. That point's key is a canonical
// one, and none of the node's rows has a smaller one (README.md).
template <std::size_t kD>
struct Cell {
  double key;
  std::size_t node;
  float nearest[kD];

  static Cell root(const Tree& tree, const float* query) {
    Cell cell;
    cell.node = 0;
    for (std::size_t p = 0; p < kD; ++p)
      cell.nearest[p] = std::min(std::max(query[p], tree.box[p]), tree.box[kD + p]);
    cell.key = squared_distance<kD>(query, cell.nearest);
    return cell;
  }
  // Becomes the nearer of its halves, and returns the other one.
  Cell halve(const Tree& tree, const float* query) {
    const Split& split = tree.splits[node];
    float& at = nearest[split.side];
    const bool right = at - split.below > split.above - at;
    Cell other = *this;
    other.node = 2 * node + (right ? 1 : 2);
    other.nearest[split.side] = right ? split.below : split.above;
    other.key = squared_distance<kD>(query, other.nearest);
    node = 2 * node + (right ? 2 : 1);
    if (right ? at < split.above : at > split.below) {  // the point lay between the halves
      at = right ? split.above : split.below;
      key = squared_distance<kD>(query, nearest);
    }
    return other;
  }
};

// Searches one thread's queries, one after the other.
template <std::size_t kD>
class Walk {
 public:
  Walk(const Tree& tree, const IndexScope& scope)
      : scope_(scope), tree_(tree), segment_(scope.segment) {}

  // Returns the leaf that a query comes to by always taking the nearer child.
  std::size_t nearest_leaf(std::size_t i) const {
    const float* query = scope_.query(i);
    std::size_t node = 0;
    for (std::size_t level = 0; level < tree_.height; ++level) {
      const Split& split = tree_.splits[node];
      const float at = query[split.side];
      node = 2 * node + (at - split.below > split.above - at ? 2 : 1);
    }
    return node;
  }

  void search(std::size_t i, std::vector<Neighbour>& found, bool calling_thread) {
    std::array<Cell<kD>, 32> put_aside;  // at most one cell of each level
    const float* query = scope_.query(i);
    const std::size_t k = scope_.request.k, first_leaf = tree_.leaves() - 1;
    found.reserve(std::min(k, found.size() + tree_.n));
    std::make_heap(found.begin(), found.end());
    worst_ = found.size() == k ? found.front().key : std::numeric_limits<double>::infinity();
    std::size_t aside = 0;
    auto cell = Cell<kD>::root(tree_, query);
    ++boxes;
    for (;;) {
      // A row that is as far as the k-th may still have a smaller id.
      while (cell.node < first_leaf && cell.key <= worst_) {
        const auto other = cell.halve(tree_, query);
        boxes += 2;
        if (other.key <= worst_) put_aside[aside++] = other;
      }
      if (cell.key <= worst_) visit(cell.node - first_leaf, cell.key, i, found, calling_thread);
      do {
        if (aside == 0) return;
        cell = put_aside[--aside];
      } while (cell.key > worst_);
    }
  }

  std::uint64_t boxes = 0, rows = 0;

 private:
  void visit(std::size_t leaf, double key, std::size_t i, std::vector<Neighbour>& found,
             bool calling_thread) {
    if (++leaves_ % 1024 == 0) scope_.execution.interrupt.poll(calling_thread);
    const std::size_t k = scope_.request.k, query_number = scope_.first + i;
    const std::size_t first = tree_.place(leaf, tree_.height);
    const std::size_t last = tree_.place(leaf + 1, tree_.height);
    // Where the leaf's key is the k-th's, a row must have a smaller id to come before the k-th.
    // Rows ascend within a leaf, and ids with them, so the first row tells. This spares many
    // duplicates.
    if (key == worst_ && segment_.ids == nullptr && found.size() == k &&
        segment_.id(tree_.rows[first]) > found.front().id)
      return;
    const float* query = scope_.query(i);
    float scratch[kD];
    for (std::size_t place = first; place < last; ++place) {
      const std::size_t row = tree_.rows[place];
      const float* x = segment_.keys.read(row * kD, kD, scratch, scope_.execution.kernels);
      const double s = squared_distance<kD>(query, x);
      if (!(s <= worst_)) continue;  // too far, or NaN of a damaged file
      const Neighbour neighbour{s, segment_.id(row), scope_.start + row};
      if (found.size() == k && !(neighbour < found.front())) continue;
      if (!std::isfinite(s) || !scope_.visibility.sees(query_number, segment_, row)) continue;
      if (found.size() == k) {
        std::pop_heap(found.begin(), found.end());
        found.back() = neighbour;
      } else {
        found.push_back(neighbour);
      }
      std::push_heap(found.begin(), found.end());
      if (found.size() == k) worst_ = found.front().key;
    }
    rows += last - first;
  }

  const IndexScope& scope_;
  const Tree& tree_;
  const Segment& segment_;
  double worst_ = 0;  // no row of a larger key is among the k nearest
  std::size_t leaves_ = 0;
};

// Orders queries by the leaf they fall in, so that those of a task have boxes and rows in common.
template <std::size_t kD>
std::vector<std::uint64_t> by_leaf(const Tree& tree, const IndexScope& scope) {
  std::vector<std::uint64_t> order(scope.count);
  for (std::size_t i = 0; i < scope.count; ++i) order[i] = i;
  if (scope.count < kOrderQueries) return order;
  const Walk<kD> walk(tree, scope);
  parallel_for_rows(scope.count, 16 * kD * tree.height, scope.execution.threads,
                    scope.execution.interrupt, [&](std::size_t first, std::size_t last, bool) {
                      for (std::size_t i = first; i < last; ++i)
                        order[i] |= walk.nearest_leaf(i) << 32;
                    });
  std::sort(order.begin(), order.end());
  return order;
}

template <std::size_t kD>
void search_all(const Tree& tree, const IndexScope& scope, const IndexOutput& output) {
  const auto order = by_leaf<kD>(tree, scope);
  const std::size_t per_task =
      std::clamp<std::size_t>(scope.count / (4 * scope.execution.threads), 1, kBlockQueries);
  std::mutex mutex;
  parallel_for((scope.count + per_task - 1) / per_task, scope.execution.threads,
               scope.execution.interrupt, [&](std::size_t task, bool calling_thread) {
                 Walk<kD> walk(tree, scope);
                 const std::size_t first = task * per_task;
                 const std::size_t last = std::min(scope.count, first + per_task);
                 for (std::size_t at = first; at < last; ++at) {
                   const std::size_t i = order[at] & 0xFFFFFFFF;
                   walk.search(i, output.found[i], calling_thread);
                 }
                 const std::lock_guard<std::mutex> lock(mutex);
                 output.stats.boxes += walk.boxes;
                 output.stats.rescored += walk.rows;
               });
}

template <std::size_t kD>
void all_bounds(const Tree& tree, const IndexScope& scope, double* bounds) {
  for (std::size_t i = 0; i < scope.count; ++i) {
    std::vector<Cell<kD>> cells{Cell<kD>::root(tree, scope.query(i))};
    for (std::size_t level = 0; level <= tree.height; ++level) {
      std::vector<Cell<kD>> halves;
      for (Cell<kD>& cell : cells) {
        const std::size_t j = cell.node + 1 - (std::size_t{1} << level);
        for (std::size_t at = tree.place(j, level); at < tree.place(j + 1, level); ++at)
          bounds[(i * tree.n + tree.rows[at]) * (tree.height + 1) + level] = cell.key;
        if (level == tree.height) continue;
        halves.push_back(cell.halve(tree, scope.query(i)));
        halves.push_back(cell);
      }
      cells.swap(halves);
    }
  }
}

// There is one function for every number of dimensions.
using Search = void (*)(const Tree&, const IndexScope&, const IndexOutput&);
using Bounds = void (*)(const Tree&, const IndexScope&, double*);
template <std::size_t... kI>
constexpr std::array<Search, sizeof...(kI)> searches(std::index_sequence<kI...>) {
  return {&search_all<kI + 1>...};
}
template <std::size_t... kI>
constexpr std::array<Bounds, sizeof...(kI)> bounds_of(std::index_sequence<kI...>) {
  return {&all_bounds<kI + 1>...};
}
using Dimensions = std::make_index_sequence<kMostTreeDimensions>;

}  // namespace

void Tree::search(const IndexScope& scope, const IndexOutput& output) const {
  static constexpr auto kSearches = searches(Dimensions{});
  kSearches.at(d - 1)(*this, scope, output);
}

void tree_bounds(const Tree& tree, const IndexScope& scope, double* bounds) {
  static constexpr auto kBounds = bounds_of(Dimensions{});
  kBounds.at(tree.d - 1)(tree, scope, bounds);
}

// A search holds nothing of each query but its place in the order.
std::size_t Tree::queries_together(const SearchRequest&) const {
  return kQueryBytes / sizeof(std::uint64_t);
}

}  // namespace resmem
