// The k-th largest of some floats.
#pragma once

#include <algorithm>
#include <cstddef>

namespace resmem {

// Quickselect with a branch-free partition: on random data a compare-and-branch partition
// mispredicts every other element, which costs more than the rest of it. Reorders `values`.
// Requires 1 <= k <= n and no NaN.
inline float kth_largest(float* values, std::size_t n, std::size_t k) {
  std::size_t rounds = 0;
  while (n > 16) {
    if (++rounds > 64) {  // an adversarial order: fall back to a bounded selection
      std::nth_element(values, values + (k - 1), values + n,
                       [](float a, float b) { return a > b; });
      return values[k - 1];
    }
    const float a = values[0], b = values[n / 2], c = values[n - 1];
    const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    std::size_t larger = 0;  // values[0, larger) > pivot
    for (std::size_t i = 0; i < n; ++i) {
      const float value = values[i];
      values[i] = values[larger];
      values[larger] = value;
      larger += value > pivot ? 1 : 0;
    }
    if (k <= larger) {
      n = larger;
      continue;
    }
    std::size_t equal = 0;  // values[larger, larger + equal) == pivot
    for (std::size_t i = larger; i < n; ++i) {
      const float value = values[i];
      values[i] = values[larger + equal];
      values[larger + equal] = value;
      equal += value == pivot ? 1 : 0;
    }
    if (k <= larger + equal) return pivot;
    values += larger + equal;
    n -= larger + equal;
    k -= larger + equal;
  }
  std::partial_sort(values, values + k, values + n, [](float a, float b) { return a > b; });
  return values[k - 1];
}

}  // namespace resmem
