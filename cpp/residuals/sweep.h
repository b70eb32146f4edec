// Scores of many settings from one search (CONTRACT.md, "Sweep"): every smaller k is a prefix of
// the neighbours, sigma reweights them, the strength scales their sum.
//
// Of a query, the sums of all sigmas grow together from one k to the next; a sum is scored at every
// strength and under every map while it is in the level-1 cache, and forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../base/execution.h"
#include "simplex.h"

namespace resmem {

// What is summed over queries, one number per setting: of classes the log-loss, 1 where the label
// is the first largest, the Brier score; of values the squared and the absolute errors of all
// columns. Calibration: of every bin of the largest probability its queries, those, and the correct
// ones.
enum class SweepScore { log_loss, accuracy, brier, calibration, squared_error, absolute_error };

struct SweepRequest {
  // (rows, columns), at one temperature: one of the two.
  const float* residuals = nullptr;
  const double* residuals64 = nullptr;
  std::size_t rows = 0, columns = 0;
  const double* distances = nullptr;        // (q, k) Euclidean, ascending
  const std::int64_t* positions = nullptr;  // (q, k) rows of residuals, -1 padding
  std::size_t q = 0, k = 0;
  // (q, columns), at the same temperature; of classes it may not be known: the sums are all there
  // is
  const double* base = nullptr;
  const std::int64_t* labels = nullptr;  // (q,); if there are none: regression
  const double* values = nullptr;        // (q, columns)

  std::vector<std::size_t> ks;  // ascending, at most k
  std::vector<double> sigmas, strengths;
  std::vector<SimplexMap> maps;     // one, unused, for regression
  std::vector<std::size_t> bounds;  // queries bounds[f] .. bounds[f + 1] are fold f
  SweepScore score = SweepScore::log_loss;
  std::size_t bins = 15;  // of the calibration

  std::size_t folds() const { return bounds.size() - 1; }
  std::size_t settings() const {
    return ks.size() * sigmas.size() * strengths.size() * maps.size();
  }
  // Numbers per setting.
  std::size_t width() const { return score == SweepScore::calibration ? 3 * bins : 1; }
};

// out (folds, ks, sigmas, strengths, maps, width): sums over the queries of each fold.
void sweep(const SweepRequest& request, const Execution& execution, double* out);

}  // namespace resmem
