// The parts of a pass share these: the queries that one thread takes past the clusters together,
// and pairs of a query and a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coded_queries.h"

namespace resmem {

// The codes of so many queries and those of a chunk stay together in the level-2 cache.
inline constexpr std::size_t kBlockQueries = 256;

// A block numbers its queries from 0 on. What is compared with chunks lies side by side.
class QueryBlock {
 public:
  void begin(const CodedQueries& coded, const std::uint32_t* numbers, std::size_t count) {
    numbers_ = numbers;
    count_ = count;
    slack.resize(count);
    error.resize(count);
    square.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const CodedQuery& query = coded[numbers[i]];
      slack[i] = query.slack;
      error[i] = query.error;
      square[i] = static_cast<double>(query.square);
    }
  }

  std::size_t count() const { return count_; }
  // Returns the number that query i has in the scope.
  std::uint32_t number(std::size_t i) const { return numbers_[i]; }

  std::vector<double> slack, error, square;  // CodedQuery's

 private:
  const std::uint32_t* numbers_ = nullptr;
  std::size_t count_ = 0;
};

struct Pair {
  std::uint32_t place, query;  // the query is one of the block
};

// Asks now and then whether to stop, on behalf of the thread that the pass runs on.
struct ThreadPoll {
  Interrupt& interrupt;
  bool calling_thread;
  void operator()() const { interrupt.poll(calling_thread); }
};

}  // namespace resmem
