// A memory stores residuals of the base model's outputs, whole or sparse (CONTRACT.md, "Softmax,
// residuals"). aggregate.h sums them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../base/execution.h"

namespace resmem {

// Writes softmax(logits / temperature), row by row, to out (n, columns).
void softmax_rows(const float* logits, std::size_t n, std::size_t columns, double temperature,
                  const Execution& execution, double* out);

// The labels of n rows and the base model's outputs for them.
struct ClassRows {
  const float* outputs = nullptr;  // (n, columns): logits, or probabilities if temperature is 0
  const std::int64_t* labels = nullptr;
  std::size_t n = 0, columns = 0;
  double temperature = 0;
};

// Where numbers are stored, as float32 or as float16. One of the two pointers is set.
struct StoredNumbers {
  float* floats = nullptr;
  std::uint16_t* halves = nullptr;
};

// Writes onehot(label) - base output to out (n, columns).
void class_residuals(const ClassRows& rows, const Execution& execution, const StoredNumbers& out);

// A row keeps its own class and `others` more.
struct SparseResiduals {
  std::int32_t* index = nullptr;  // (n, others + 1)
  StoredNumbers value;            // (n, others + 1)
  float* rest = nullptr;          // (n,)
};

// Returns the largest error of any row. Requires others < columns <= 2^31 - 1.
double sparse_residuals(const ClassRows& rows, std::size_t others, const Execution& execution,
                        const SparseResiduals& out);

}  // namespace resmem
