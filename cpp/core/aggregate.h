// Softmax, residuals, and the residuals' weighted sums over neighbours (CONTRACT.md,
// "Softmax, residuals" and "Weights, correction, prediction").
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../kernels/kernel_table.h"
#include "threads.h"

namespace resmem {

// out (n, columns) float64 = softmax(logits / temperature), row by row.
void softmax_rows(const float* logits, std::size_t n, std::size_t columns, double temperature,
                  const KernelTable& kernels, std::size_t threads, double* out,
                  Interrupt& interrupt);

// Class indices and the base model's outputs of n rows.
struct ClassRows {
  const float* outputs = nullptr;  // (n, columns): logits, or probabilities if temperature is 0
  const std::int64_t* labels = nullptr;
  std::size_t n = 0, columns = 0;
  double temperature = 0;
};

// out (n, columns) float32 = onehot(label) - base output.
void class_residuals(const ClassRows& rows, const KernelTable& kernels, std::size_t threads,
                     float* out, Interrupt& interrupt);

// out (n, columns): clipped from below at `floor` and renormalised, in place.
void simplex_rows(double* values, std::size_t n, std::size_t columns, double floor,
                  const KernelTable& kernels, std::size_t threads, Interrupt& interrupt);

// Residuals that lie together, (n, columns) float32.
struct ResidualSegment {
  const float* residuals = nullptr;
  std::size_t n = 0;
};

struct AggregateRequest {
  std::vector<ResidualSegment> segments;
  std::size_t columns = 0;
  const double* distances = nullptr;        // (q, k) Euclidean, ascending
  const std::int64_t* positions = nullptr;  // (q, k) numbered through all segments, -1 padding
  std::size_t q = 0, k = 0;
  double sigma = 1;
  double strength = 1;
  std::size_t threads = 1;
  bool add_to_out = false;  // out holds the base outputs
};

// out (q, columns) += strength * correction, or = correction (strength unused).
void aggregate(const AggregateRequest& request, const KernelTable& kernels, double* out,
               Interrupt& interrupt);

// The weights of one query's neighbours, in order; returns how many there are (no padding).
std::size_t neighbour_weights(const double* distances, const std::int64_t* positions, std::size_t k,
                              double sigma, const KernelTable& kernels, double* out);

}  // namespace resmem
