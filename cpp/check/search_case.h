// A search of the file of cases: what is asked, and what must be found.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../flat/request.h"
#include "case_reader.h"
#include "context.h"

namespace resmem {

template <class T>
T max_abs(const std::vector<T>& values) {
  T largest = 0;
  for (const T x : values) {
    require(std::isfinite(x), "a vector is not finite");
    largest = std::max(largest, std::fabs(x));
  }
  return largest;
}

// Returns stored numbers as float32.
Floats read(const StoredVector& stored);

// Owns what a request points to.
struct SearchCase {
  struct Stored {
    StoredVector keys;
    Integers ids, died;
  };
  explicit SearchCase(Reader& reader);
  SearchCase(const SearchCase&) = delete;

  // Returns the id of the row at a position, -1 for padding and -2 beyond all rows.
  std::int64_t id_at(std::int64_t position) const;

  SearchRequest request;
  Floats queries;
  std::vector<Stored> stored;  // one of each segment
  std::size_t total = 0;       // rows of all segments
  Integers exclude, ids;
  Doubles values;

 private:
  void read_segment(Reader& reader);
};

// Runs a request made of the case's own, and returns whether it found what the case wants. If a
// strategy is given (not null), that one must have run.
bool search_once(Context& context, const SearchCase& search_case, const SearchRequest& request,
                 std::size_t threads, const char* strategy);

}  // namespace resmem
