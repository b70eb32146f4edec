// Finds the canonical keys that are wanted, several at a time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "block.h"

namespace resmem {

inline constexpr double kUnknownKey = std::numeric_limits<double>::quiet_NaN();

// A row that may be among the k nearest of a query. Its distance lies in [low, high].
struct CascadeCandidate {
  double low, high;
  double key;  // canonical, or kUnknownKey
  std::int64_t id;
  std::uint32_t row;  // kNoRow if it was found elsewhere

  bool has_key() const { return !std::isnan(key); }
};

class KeyQueue {
 public:
  static constexpr std::size_t kTogether = 4;  // keys that are computed at once

  KeyQueue(const IndexScope& scope, const CodedQueries& coded, const ThreadPoll& poll)
      : scope_(scope), coded_(coded), poll_(poll), scratch_(kTogether * scope.request.d) {}

  // Asks for a key. The query counts from the scope's first. The candidate must stay where it is
  // until find().
  void want(std::uint32_t query, CascadeCandidate& candidate) {
    wanted_.push_back({query, &candidate});
  }
  // Orders what is wanted by row, of which there are n, but only as finely as caches notice.
  void sort_by_row(std::size_t n);
  // Gives every candidate whose key is wanted that key, and both ends that follow from it.
  void find();

  std::uint64_t found = 0;  // keys, so far

 private:
  struct Wanted {
    std::uint32_t query;
    CascadeCandidate* candidate;
  };

  const IndexScope& scope_;
  const CodedQueries& coded_;
  const ThreadPoll& poll_;
  std::vector<Wanted> wanted_;
  std::vector<float> scratch_;  // rows that are stored as 16 bits, widened
};

}  // namespace resmem
