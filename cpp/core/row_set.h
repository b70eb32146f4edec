// The rows of all segments, numbered through: a position is a row's number in that order.
#pragma once

#include <algorithm>
#include <vector>

#include "types.h"

namespace resmem {

class RowSet {
 public:
  RowSet(const std::vector<Segment>& segments, std::size_t d) : segments_(segments), d_(d) {
    std::int64_t last = -1;
    for (const Segment& segment : segments_) {
      starts_.push_back(size_);
      size_ += segment.n;
      if (segment.ids == nullptr) {
        ascending_ = ascending_ && (segment.n == 0 || segment.first_id > last);
        if (segment.n > 0) last = segment.id(segment.n - 1);
      } else {
        ascending_ = false;
      }
    }
  }

  std::size_t size() const { return size_; }
  const std::vector<Segment>& segments() const { return segments_; }
  std::size_t start(std::size_t segment) const { return starts_[segment]; }
  // Ids are known to grow with position.
  bool ascending() const { return ascending_; }

  std::size_t segment_of(std::size_t position) const {
    return static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), position) -
                                    starts_.begin()) -
           1;
  }
  const float* row(std::size_t position) const {
    const std::size_t s = segment_of(position);
    return segments_[s].rows + (position - starts_[s]) * d_;
  }
  std::int64_t id(std::size_t position) const {
    const std::size_t s = segment_of(position);
    return segments_[s].id(position - starts_[s]);
  }

 private:
  const std::vector<Segment>& segments_;
  std::size_t d_;
  std::vector<std::size_t> starts_;
  std::size_t size_ = 0;
  bool ascending_ = true;
};

// Which rows a query must not see.
class Exclusions {
 public:
  Exclusions(const SearchRequest& request)
      : ids_(request.exclude), width_(request.exclude == nullptr ? 0 : request.exclude_width) {
    if (width_ > kLinear) {  // long lists are searched, so sort a copy
      sorted_.assign(ids_, ids_ + request.q * width_);
      for (std::size_t q = 0; q < request.q; ++q) {
        const auto first = sorted_.begin() + static_cast<std::ptrdiff_t>(q * width_);
        std::sort(first, first + static_cast<std::ptrdiff_t>(width_));
      }
      ids_ = sorted_.data();
    }
  }

  bool excludes(std::size_t query, std::int64_t id) const {
    const std::int64_t* first = ids_ + query * width_;
    if (width_ > kLinear) return std::binary_search(first, first + width_, id);
    return width_ > 0 && std::find(first, first + width_, id) != first + width_;
  }

 private:
  static constexpr std::size_t kLinear = 16;
  const std::int64_t* ids_;
  std::size_t width_;
  std::vector<std::int64_t> sorted_;
};

}  // namespace resmem
