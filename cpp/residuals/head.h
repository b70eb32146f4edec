// The base model's last layer, a linear one: logits from keys (CONTRACT.md, "Head residuals").
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

// Gives key number i, where it lies or read into `scratch` (d floats).
using KeySource = std::function<const float*(std::size_t i, float* scratch)>;

// out (n, columns): the logits of n keys.
void head_logits(const LinearHead& head, std::size_t n, const KeySource& key,
                 const Execution& execution, float* out);
// The same of float64 keys (n, d).
void head_logits(const LinearHead& head, std::size_t n, const double* keys,
                 const Execution& execution, float* out);

}  // namespace resmem
