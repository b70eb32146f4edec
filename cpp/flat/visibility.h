// Which rows each query may see.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "request.h"

namespace resmem {

// Finds numbers in the lists of queries.
class ListedNumbers {
 public:
  ListedNumbers(const NumberLists& lists, std::size_t queries)
      : numbers_(lists.numbers), width_(lists.numbers == nullptr ? 0 : lists.width) {
    if (width_ <= kLinear) return;  // a binary search of a sorted copy is faster in long lists
    sorted_.assign(numbers_, numbers_ + queries * width_);
    for (std::size_t q = 0; q < queries; ++q) {
      const auto first = sorted_.begin() + static_cast<std::ptrdiff_t>(q * width_);
      std::sort(first, first + static_cast<std::ptrdiff_t>(width_));
    }
    numbers_ = sorted_.data();
  }

  bool empty() const { return width_ == 0; }
  bool holds(std::size_t query, std::int64_t number) const {
    const std::int64_t* first = numbers_ + query * width_;
    if (width_ > kLinear) return std::binary_search(first, first + width_, number);
    return width_ > 0 && std::find(first, first + width_, number) != first + width_;
  }

 private:
  static constexpr std::size_t kLinear = 16;
  const std::int64_t* numbers_;
  std::size_t width_;
  std::vector<std::int64_t> sorted_;
};

class Visibility {
 public:
  explicit Visibility(const SearchRequest& request)
      : version_(request.version),
        before_(request.before),
        ids_(request.exclude, request.q),
        groups_(request.exclude_groups, request.q) {
    for (const Segment& segment : request.segments)
      restricts_ = restricts_ || segment.among.bits != nullptr;
  }

  // Tells whether many of the living rows may be hidden from a query.
  bool restricts() const { return restricts_ || before_ != nullptr; }

  // Tells whether a query may see a row, given by its number in a segment.
  bool sees(std::size_t query, const Segment& segment, std::size_t row) const {
    if (segment.dead(row, version_) || !segment.among.holds(row)) return false;
    if (before_ != nullptr && segment.times[row] >= before_[query]) return false;
    if (!groups_.empty() && segment.group(row) >= 0 && groups_.holds(query, segment.group(row)))
      return false;
    return !ids_.holds(query, segment.id(row));
  }

 private:
  std::int64_t version_;
  const std::int64_t* before_;
  ListedNumbers ids_, groups_;
  bool restricts_ = false;
};

}  // namespace resmem
