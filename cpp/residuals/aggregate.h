// Weights of neighbours and the weighted sums of their residuals or targets (CONTRACT.md, "Weights,
// correction, prediction" and "Targets").
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "../base/execution.h"
#include "../rows/located.h"
#include "../rows/numbers.h"
#include "damaged_rows.h"
#include "finished.h"
#include "head.h"

namespace resmem {

// What is summed of n rows may be at hand in four ways.
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
struct LabelRows {  // classes, each of which stands for its one-hot row
  const std::int64_t* labels = nullptr;
  std::size_t n = 0;
};
using ResidualStore = std::variant<std::vector<DenseRows>, std::vector<SparseRows>,
                                   std::vector<HeadRows>, std::vector<LabelRows>>;

// Weights that rows have of their own, by which those of the neighbours are multiplied.
struct WeightRows {
  const double* weights = nullptr;  // (n,), positive; null: each row weighs 1
  std::size_t n = 0;
};

struct AggregateRequest {
  ResidualStore store;
  std::vector<WeightRows> weights;  // of the store's segments; none: each row weighs 1
  LinearHead head;                  // of head rows
  std::size_t columns = 0;
  const double* distances = nullptr;        // (q, k) ascending
  const std::int64_t* positions = nullptr;  // (q, k) numbered through all segments, -1 padding
  std::size_t q = 0, k = 0;
  const std::int64_t* select = nullptr;  // (q, selected) column numbers, or null for all columns
  std::size_t selected = 0;
  double sigma = 1;
  double strength = 1;
  const double* strengths = nullptr;  // (q,) in the place of `strength`, or null
  bool add_to_out = false;            // out holds the base outputs
  bool interpolate = false;           // between the base outputs and what is summed

  std::size_t width() const { return select == nullptr ? columns : selected; }
  // Returns the strength for a query that has so many neighbours.
  double strength_for(std::size_t query, std::size_t neighbours) const {
    return strength_with(neighbours, strengths == nullptr ? strength : strengths[query]);
  }
  // Returns what a column that held `out` becomes, given the mean of what is summed.
  double finished(double out, double mean, double by) const {
    return add_to_out ? moved(out, mean, by, interpolate) : mean;
  }
};

// Sets out (q, width) to the weighted means of what is summed. If request.add_to_out, it holds the
// base outputs and gets strength * mean added, or is moved to the mean by that share of the way if
// request.interpolate. Throws DamagedRows and Interrupted.
void aggregate(const AggregateRequest& request, const Execution& execution, double* out);

// How many neighbours a query has, without padding, and the sum of their weights. The sum is 1 if
// there are none, so that a sum over nothing can be divided by it.
struct Weighed {
  std::size_t count = 0;
  double total = 1;
};

// Weighs the neighbours of queries.
class NeighbourWeights {
 public:
  NeighbourWeights(double sigma, const std::vector<WeightRows>& rows, const KernelTable& kernels)
      : sigma_(sigma), rows_(rows), kernels_(kernels) {}

  // Writes the weights of one query's neighbours, in order and not divided by their sum, to `out`.
  Weighed operator()(const double* distances, const std::int64_t* positions, std::size_t k,
                     double* out) const;

 private:
  double sigma_;
  Located<WeightRows> rows_;
  const KernelTable& kernels_;
};

}  // namespace resmem
