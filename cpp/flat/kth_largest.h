// Selects the k-th largest of some floats.
#pragma once

#include <algorithm>
#include <cstddef>

namespace resmem {

// This is quickselect with a branch-free partition: on random data a compare-and-branch partition
// mispredicts every other element, which costs more than the rest of it. It reorders `values`, and
// requires 1 <= k <= n and no NaN.
inline float kth_largest(float* values, std::size_t n, std::size_t k) {
  std::size_t rounds = 0;
  while (n > 16) {
    if (++rounds > 64) {  // the order is adversarial, so a bounded selection takes over
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
    values += larger;
    n -= larger;
    k -= larger;
    if (larger > 0) continue;
    std::size_t equal = 0;  // the pivot was the largest, so it and its equals are set apart
    for (std::size_t i = 0; i < n; ++i) {
      const float value = values[i];
      values[i] = values[equal];
      values[equal] = value;
      equal += value == pivot ? 1 : 0;
    }
    if (k <= equal) return pivot;
    values += equal;
    n -= equal;
    k -= equal;
  }
  for (std::size_t i = 0; i < n; ++i) {  // few are left, and counting needs no branches
    std::size_t larger = 0, equal = 0;
    for (std::size_t j = 0; j < n; ++j) {
      larger += values[j] > values[i] ? 1 : 0;
      equal += values[j] == values[i] ? 1 : 0;
    }
    if (larger < k && k <= larger + equal) return values[i];
  }
  return values[0];  // not reached
}

}  // namespace resmem
