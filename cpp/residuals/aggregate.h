// Weights of neighbours and the weighted sums of their residuals (CONTRACT.md, "Weights,
// correction, prediction").
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "../base/execution.h"
#include "../rows/numbers.h"
#include "head.h"

namespace resmem {

// The residuals of n rows may be at hand in three ways.
struct DenseRows {
  Numbers residuals;  // (n, columns); float64 in all segments or in none
  std::size_t n = 0;
};
struct SparseRows {
  const std::int32_t* index = nullptr;  // (n, width)
  Numbers value;                        // (n, width)
  const float* rest = nullptr;          // (n,)
  std::size_t n = 0, width = 0;
};
struct HeadRows {  // residuals are computed when they are asked for
  Numbers keys;    // (n, head.d)
  const std::int64_t* labels = nullptr;
  std::size_t n = 0;
};
using ResidualStore =
    std::variant<std::vector<DenseRows>, std::vector<SparseRows>, std::vector<HeadRows>>;

// Thrown for stored rows that this library cannot have written.
struct DamagedRows : std::invalid_argument {
  DamagedRows(const char* what, std::int64_t got, std::size_t columns)
      : std::invalid_argument("the stored rows are damaged: " + std::string(what) + " " +
                              std::to_string(got) + " is not one of the classes 0 to " +
                              std::to_string(columns - 1)) {}
};

struct AggregateRequest {
  ResidualStore store;
  LinearHead head;  // of head rows
  std::size_t columns = 0;
  const double* distances = nullptr;        // (q, k) Euclidean, ascending
  const std::int64_t* positions = nullptr;  // (q, k) numbered through all segments, -1 padding
  std::size_t q = 0, k = 0;
  const std::int64_t* select = nullptr;  // (q, selected) column numbers, or null for all columns
  std::size_t selected = 0;
  double sigma = 1;
  double strength = 1;
  bool add_to_out = false;  // out holds the base outputs

  std::size_t width() const { return select == nullptr ? columns : selected; }
  // Returns what a column that held `out` becomes, given its correction.
  double finished(double out, double correction) const {
    return add_to_out ? out + strength * correction : correction;
  }
};

// Adds strength * correction to out (q, width) if request.add_to_out, and otherwise sets it to the
// correction, without the strength. Throws DamagedRows and Interrupted.
void aggregate(const AggregateRequest& request, const Execution& execution, double* out);

// How many neighbours a query has, without padding, and the sum of their weights. The sum is 1 if
// there are none, so that a sum over nothing can be divided by it.
struct Weighed {
  std::size_t count = 0;
  double total = 1;
};

// Writes the weights of one query's neighbours, in order and not divided by their sum, to `out`.
Weighed neighbour_weights(const double* distances, const std::int64_t* positions, std::size_t k,
                          double sigma, const KernelTable& kernels, double* out);

}  // namespace resmem
