#include "tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace resmem {
namespace {

constexpr std::size_t kLeafRows = 16;

class Builder {
 public:
  Builder(const Segment& segment, std::size_t d, std::size_t leaf, const Execution& execution)
      : segment_(segment), execution_(execution) {
    tree_.n = segment.n;
    tree_.d = d;
    const std::size_t least = leaf > 0 ? leaf : kLeafRows;
    while (tree_.n >> (tree_.height + 1) >= least) ++tree_.height;
    rows_.resize(tree_.n);
    splits_.resize(tree_.leaves() - 1);
  }

  Tree build() {
    for (std::size_t i = 0; i < tree_.n; ++i) rows_[i] = static_cast<std::uint32_t>(i);
    // The first levels are built one after the other, and then what lies below each of their nodes
    // on its own.
    constexpr std::size_t kTogether = 6;
    const std::size_t top = std::min(kTogether, tree_.height);
    for (std::size_t level = 0; level < top; ++level)
      parallel_for(std::size_t{1} << level, execution_.threads, execution_.interrupt,
                   [&](std::size_t j, bool calling) { Part(*this).split(level, j, calling); });
    parallel_for(std::size_t{1} << top, execution_.threads, execution_.interrupt,
                 [&](std::size_t j, bool calling) { Part(*this).build(top, j, calling); });
    tree_.rows.own(std::move(rows_));
    tree_.splits.own(std::move(splits_));
    return std::move(tree_);
  }

 private:
  // One thread works with one of these.
  class Part {
   public:
    explicit Part(Builder& whole)
        : whole_(whole), scratch_(whole.tree_.d), box_(2 * whole.tree_.d) {}

    void build(std::size_t level, std::size_t j, bool calling) {
      split(level, j, calling);
      if (level == whole_.tree_.height) return;
      build(level + 1, 2 * j, calling);
      build(level + 1, 2 * j + 1, calling);
    }

    // Orders the rows of a leaf, and halves those of any other node along the widest side of their
    // box.
    void split(std::size_t level, std::size_t j, bool calling) {
      Tree& tree = whole_.tree_;
      const std::size_t first = tree.place(j, level), last = tree.place(j + 1, level), d = tree.d;
      std::uint32_t* rows = whole_.rows_.data();
      if (level == 0 || level < tree.height) find_box(first, last, calling);
      if (level == 0) tree.box = box_;
      if (level == tree.height) {
        std::sort(rows + first, rows + last);
        return;
      }
      const auto width = [&](std::size_t p) {
        return static_cast<double>(box_[d + p]) - static_cast<double>(box_[p]);
      };
      std::size_t side = 0;
      for (std::size_t p = 1; p < d; ++p)
        if (width(p) > width(side)) side = p;
      keyed_.resize(last - first);
      for (std::size_t i = first; i < last; ++i) {
        if (i % 4096 == 0) whole_.execution_.interrupt.poll(calling);
        keyed_[i - first] = {read(rows[i])[side], rows[i]};
      }
      // Nobody can order NaN, which another thread may have written after find_box().
      if (!std::all_of(keyed_.begin(), keyed_.end(),
                       [](const Keyed& keyed) { return std::isfinite(keyed.value); }))
        throw std::invalid_argument("a row is not what its segment says");
      const std::size_t half = tree.place(2 * j + 1, level + 1) - first;
      const auto middle = keyed_.begin() + static_cast<std::ptrdiff_t>(half);
      std::nth_element(keyed_.begin(), middle, keyed_.end());
      whole_.execution_.interrupt.poll(calling);
      for (std::size_t i = first; i < last; ++i) rows[i] = keyed_[i - first].row;
      whole_.splits_[(std::size_t{1} << level) - 1 + j] = {
          std::max_element(keyed_.begin(), middle)->value, middle->value,
          static_cast<std::uint32_t>(side)};
    }

   private:
    struct Keyed {
      float value;
      std::uint32_t row;
      bool operator<(const Keyed& other) const {  // no two are equal, so the halves are unique
        return value < other.value || (value == other.value && row < other.row);
      }
    };
    const float* read(std::size_t row) {
      const std::size_t d = whole_.tree_.d;
      return whole_.segment_.keys.read(row * d, d, scratch_.data(), whole_.execution_.kernels);
    }

    void find_box(std::size_t first, std::size_t last, bool calling) {
      const std::size_t d = whole_.tree_.d;
      std::fill_n(box_.begin(), d, std::numeric_limits<float>::infinity());
      std::fill_n(box_.begin() + static_cast<std::ptrdiff_t>(d), d,
                  -std::numeric_limits<float>::infinity());
      for (std::size_t i = first; i < last; ++i) {
        if (i % 4096 == 0) whole_.execution_.interrupt.poll(calling);
        const float* x = read(whole_.rows_[i]);
        for (std::size_t p = 0; p < d; ++p) {
          if (!std::isfinite(x[p]))
            throw std::invalid_argument("a row is not what its segment says");
          box_[p] = std::min(box_[p], x[p]);
          box_[d + p] = std::max(box_[d + p], x[p]);
        }
      }
    }

    Builder& whole_;
    std::vector<float> scratch_, box_;
    std::vector<Keyed> keyed_;
  };

  const Segment& segment_;
  const Execution& execution_;
  Tree tree_;
  AlignedVector<std::uint32_t> rows_;
  AlignedVector<Split> splits_;
};

}  // namespace

Tree build_tree(const Segment& segment, std::size_t d, std::size_t leaf,
                const Execution& execution) {
  if (d == 0 || d > kMostTreeDimensions)
    throw std::invalid_argument("a tree has 1 to 16 dimensions");
  if (segment.n == 0 || segment.n > std::numeric_limits<std::uint32_t>::max())
    throw std::invalid_argument("a tree has 1 to 2^32 - 1 rows");
  return Builder(segment, d, leaf, execution).build();
}

void Tree::complete() const {
  const auto require = [](bool holds) {
    if (!holds) throw std::invalid_argument("the parts of a tree do not fit together");
  };
  require(n > 0 && n <= std::numeric_limits<std::uint32_t>::max());
  require(d > 0 && d <= kMostTreeDimensions && height < 32 && leaves() <= n);
  require(rows.size() == n && splits.size() == leaves() - 1 && box.size() == 2 * d);
  const auto finite = [](float x) { return std::isfinite(x); };
  require(std::all_of(box.begin(), box.end(), finite));
  for (std::size_t p = 0; p < d; ++p) require(box[p] <= box[d + p]);
  for (std::size_t node = 0; node < splits.size(); ++node) {
    const Split& split = splits[node];
    require(split.side < d && finite(split.below) && finite(split.above));
  }
  std::vector<bool> there(n);
  for (std::size_t place = 0; place < n; ++place) {
    require(rows[place] < n && !there[rows[place]]);
    there[rows[place]] = true;
  }
}

const IndexKind& Tree::kind() const {
  static constexpr IndexKind kKind{"tree", "boxes", 0};
  return kKind;
}

std::uint64_t Tree::digest() const {
  Digest digest;
  digest.take(std::vector<std::size_t>{n, d, height});
  digest.take(box);
  digest.take(splits);
  digest.take(rows);
  return digest.value();
}

}  // namespace resmem
