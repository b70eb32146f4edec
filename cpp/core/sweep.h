// Scores of many settings from one search (CONTRACT.md, "Sweep"): every smaller k is a prefix of
// the neighbours, sigma reweights them, the strength scales their sum.
//
// Of a query, the sums of all sigmas grow together from one k to the next; a sum is scored at every
// strength and under every map while it is in the level-1 cache, and forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../kernels/kernel_table.h"
#include "simplex.h"
#include "threads.h"

namespace resmem {

struct SweepRequest {
  const float* residuals = nullptr;  // (rows, columns), at one temperature
  std::size_t rows = 0, columns = 0;
  const double* distances = nullptr;        // (q, k) Euclidean, ascending
  const std::int64_t* positions = nullptr;  // (q, k) rows of residuals, -1 padding
  std::size_t q = 0, k = 0;
  const double* base = nullptr;          // (q, columns), at the same temperature
  const std::int64_t* labels = nullptr;  // (q,); if there are none: regression
  const double* values = nullptr;        // (q, columns)

  std::vector<std::size_t> ks;  // ascending, at most k
  std::vector<double> sigmas, strengths;
  std::vector<SimplexMap> maps;     // one, unused, for regression
  std::vector<std::size_t> bounds;  // queries bounds[f] .. bounds[f + 1] are fold f
  std::size_t bins = 0;             // of the calibration; 0: it is not asked for
  std::size_t threads = 1;

  std::size_t folds() const { return bounds.size() - 1; }
  std::size_t settings() const {
    return ks.size() * sigmas.size() * strengths.size() * maps.size();
  }
  // Numbers per setting. Classification: log-loss, correct ones, Brier score; then of every bin
  // rows, confidence, correct ones. Regression: squared errors, absolute errors.
  std::size_t width() const { return labels == nullptr ? 2 : 3 + 3 * bins; }
};

// out (folds, ks, sigmas, strengths, maps, width): sums over the queries of each fold.
void sweep(const SweepRequest& request, const KernelTable& kernels, double* out,
           Interrupt& interrupt);

}  // namespace resmem
