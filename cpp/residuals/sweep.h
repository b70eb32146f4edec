// Scores many settings from one search (CONTRACT.md, "Sweep"). Every smaller k takes a prefix of
// the neighbours, sigma weighs them anew, and the strength scales their sum.
//
// The sums of a query for all sigmas grow together from one k to the next. Each sum is scored at
// every strength and under every map while it is in the level-1 cache, and then forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../base/execution.h"
#include "simplex.h"

namespace resmem {

// A score is summed over queries. Most scores are one number per setting: for classes the log-loss,
// the accuracy (1 where the label is the first of the largest) and the Brier score, for values the
// squared or the absolute errors of all columns. Calibration has three numbers for each bin of the
// largest probability: how many queries it has, the sum of their largest probabilities, and how
// many of them are correct.
enum class SweepScore { log_loss, accuracy, brier, calibration, squared_error, absolute_error };

struct SweepRequest {
  // What is summed of the rows: residuals (rows, columns) at one temperature, targets of that
  // shape, or classes (rows,), each of which stands for its one-hot row. One of the pointers is
  // set.
  const float* residuals = nullptr;
  const double* residuals64 = nullptr;
  const std::int64_t* row_labels = nullptr;
  std::size_t rows = 0, columns = 0;
  const double* row_weights = nullptr;      // (rows,), or null: each row weighs 1
  const double* distances = nullptr;        // (q, k) ascending
  const std::int64_t* positions = nullptr;  // (q, k) rows of residuals, -1 padding
  std::size_t q = 0, k = 0;
  // Base outputs are (q, columns), at the same temperature. For classes they may be null, and then
  // the sums alone are the outputs.
  const double* base = nullptr;
  const std::int64_t* labels = nullptr;  // (q,); null for regression
  const double* values = nullptr;        // (q, columns)

  std::vector<std::size_t> ks;  // ascending, at most k
  std::vector<double> sigmas, strengths;
  bool interpolate = false;         // between the base outputs and the targets that are summed
  std::vector<SimplexMap> maps;     // one, unused, for regression and if `interpolate`
  std::vector<std::size_t> bounds;  // queries bounds[f] .. bounds[f + 1] are fold f
  SweepScore score = SweepScore::log_loss;
  std::size_t bins = 15;  // of the calibration

  std::size_t folds() const { return bounds.size() - 1; }
  std::size_t settings() const {
    return ks.size() * sigmas.size() * strengths.size() * maps.size();
  }
  // Returns how many numbers a setting has.
  std::size_t width() const { return score == SweepScore::calibration ? 3 * bins : 1; }
};

// Writes the sums over the queries of each fold to out (folds, ks, sigmas, strengths, maps, width).
void sweep(const SweepRequest& request, const Execution& execution, double* out);

}  // namespace resmem
