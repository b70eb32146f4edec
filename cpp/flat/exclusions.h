// The ids of the rows that each query must not see.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "request.h"

namespace resmem {

class Exclusions {
 public:
  Exclusions(const SearchRequest& request)
      : ids_(request.exclude), width_(request.exclude == nullptr ? 0 : request.exclude_width) {
    if (width_ > kLinear) {  // a binary search of a sorted copy is faster in long lists
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
