// What a memory stores of the base model's outputs: residuals, whole or sparse (CONTRACT.md,
// "Softmax, residuals"). aggregate.h sums them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../base/execution.h"

namespace resmem {

// out (n, columns) float64 = softmax(logits / temperature), row by row.
void softmax_rows(const float* logits, std::size_t n, std::size_t columns, double temperature,
                  const Execution& execution, double* out);

// Class indices and the base model's outputs of n rows.
struct ClassRows {
  const float* outputs = nullptr;  // (n, columns): logits, or probabilities if temperature is 0
  const std::int64_t* labels = nullptr;
  std::size_t n = 0, columns = 0;
  double temperature = 0;
};

// Numbers to be stored as float32 or as float16: one of the two is set.
struct StoredNumbers {
  float* floats = nullptr;
  std::uint16_t* halves = nullptr;
};

// out (n, columns) = onehot(label) - base output.
void class_residuals(const ClassRows& rows, const Execution& execution, const StoredNumbers& out);

// Classes kept per row: the row's own and `others` more.
struct SparseResiduals {
  std::int32_t* index = nullptr;  // (n, others + 1)
  StoredNumbers value;            // (n, others + 1)
  float* rest = nullptr;          // (n,)
};

// Returns the largest error of any row. Requires others < columns <= 2^31 - 1.
double sparse_residuals(const ClassRows& rows, std::size_t others, const Execution& execution,
                        const SparseResiduals& out);

}  // namespace resmem
