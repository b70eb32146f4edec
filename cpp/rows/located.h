// Rows that lie in several segments and are numbered through all of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace resmem {

// Finds the segment and the row of a position.
template <class Segment>
class Located {
 public:
  explicit Located(const std::vector<Segment>& segments) : segments_(segments) {
    std::size_t start = 0;
    for (const Segment& segment : segments) {
      starts_.push_back(start);
      start += segment.n;
    }
  }
  struct Row {
    const Segment& segment;
    std::size_t row;
  };
  Row operator[](std::int64_t position) const {
    const auto at = static_cast<std::size_t>(position);
    if (segments_.size() == 1) return {segments_[0], at};
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), at);
    const auto s = static_cast<std::size_t>(after - starts_.begin()) - 1;
    return {segments_[s], at - starts_[s]};
  }
  const std::vector<Segment>& segments() const { return segments_; }

 private:
  const std::vector<Segment>& segments_;
  std::vector<std::size_t> starts_;
};

}  // namespace resmem
