// The base model's last layer is a linear one, which makes logits of keys (CONTRACT.md, "Head
// residuals").
#pragma once

#include <cstddef>
#include <functional>

#include "../base/execution.h"

namespace resmem {

struct LinearHead {
  const float* weight = nullptr;  // (columns, d)
  const float* bias = nullptr;    // (columns,)
  std::size_t columns = 0, d = 0;
  double temperature = 1;  // of the softmax over its logits
};

// Returns key number i, where it lies or read into `scratch` (d floats).
using KeySource = std::function<const float*(std::size_t i, float* scratch)>;

// Writes the logits of n keys to out (n, columns).
void head_logits(const LinearHead& head, std::size_t n, const KeySource& key,
                 const Execution& execution, float* out);
// Does the same for float64 keys (n, d).
void head_logits(const LinearHead& head, std::size_t n, const double* keys,
                 const Execution& execution, float* out);

}  // namespace resmem
