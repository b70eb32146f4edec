// These kernels make base outputs of what a model gave (cpp/CONTRACT.md, "Softmax, residuals"). A
// block works on the row of one query.
#pragma once

#include "aggregate.h"
#include "functions.cuh"

namespace resmem {
namespace device {

template <class T>
struct OutputArgs {
  const T* outputs;  // (queries, columns)
  std::size_t columns;
  OutputKind kind;
  double temperature;  // of logits
  double value;        // if constant
  double* base;        // (queries, columns)
  std::uint32_t* refused;
};

RESMEM_DEVICE bool is_finite(double x) { return x - x == 0; }

// Returns what is taken off all logits of a row before they are rounded to float32: the largest
// one, if a large one is there that float32 may not hold.
template <class T>
RESMEM_DEVICE double shift_of(const T* logits, std::size_t columns, RowShared& shared) {
  if constexpr (std::is_same_v<T, double>) {
    constexpr double kLarge = 64;
    double largest = -__builtin_inf();
    bool large = false, nan = false;
    for (std::size_t c = simt::thread(); c < columns; c += simt::threads()) {
      const double logit = logits[c];
      large |= is_finite(logit) && (logit > kLarge || logit < -kLarge);
      nan |= logit != logit;
      largest = logit > largest ? logit : largest;
    }
    const bool shifted = simt::sync_block_any(large) && !simt::sync_block_any(nan);
    largest = block_largest(largest, shared);
    return shifted && is_finite(largest) ? largest : 0;
  } else {
    return 0;
  }
}

// Rows with a NaN, with +inf or with nothing but -inf are refused.
template <class T>
RESMEM_KERNEL void RESMEM_BOUNDS(kRowThreads, 4) soften_logits(const OutputArgs<T> args) {
  auto& shared = *simt::shared_memory<RowShared>();
  const std::size_t query = simt::block_x(), n = args.columns;
  const T* logits = args.outputs + query * n;
  double* base = args.base + query * n;
  const double shift = shift_of(logits, n, shared);
  double largest = -__builtin_inf();
  bool bad = false;
  for (std::size_t c = simt::thread(); c < n; c += simt::threads()) {
    const auto logit = static_cast<float>(wide(logits[c]) - shift);
    bad |= !(logit < static_cast<float>(__builtin_inf()));
    const double z = static_cast<double>(logit) / args.temperature;
    base[c] = z;
    largest = z > largest ? z : largest;
  }
  bad = simt::sync_block_any(bad);
  largest = block_largest(largest, shared);
  if ((bad || largest == -__builtin_inf()) && simt::thread() == 0) args.refused[query] = 1;
  for (std::size_t c = simt::thread(); c < n; c += simt::threads())
    base[c] = exp_of(base[c] - largest);
  const double total = canonical_total(
      n, [base](std::size_t c) { return base[c]; }, shared);
  for (std::size_t c = simt::thread(); c < n; c += simt::threads()) base[c] /= total;
}

// Returns the float32 of a probability, that of a positive one at least 2^-149.
template <class T>
RESMEM_DEVICE double rounded_probability(T given) {
  const double exact = wide(given);
  const auto rounded = static_cast<float>(exact);
  return rounded == 0 && exact > 0 ? 0x1p-149 : static_cast<double>(rounded);
}

// Probabilities outside [0, 1], or whose sum is not about 1, and values that are not finite are
// refused.
template <class T>
RESMEM_KERNEL void RESMEM_BOUNDS(kRowThreads, 4) take_outputs(const OutputArgs<T> args) {
  constexpr double kMostOff = 0.01;
  auto& shared = *simt::shared_memory<RowShared>();
  const std::size_t query = simt::block_x(), n = args.columns;
  double* base = args.base + query * n;
  const bool probable = args.kind == OutputKind::probabilities;
  bool bad = false;
  for (std::size_t c = simt::thread(); c < n; c += simt::threads()) {
    double value = args.value;
    if (args.kind != OutputKind::constant) {
      const T given = args.outputs[query * n + c];
      value = probable ? rounded_probability(given) : wide(given);
    }
    bad |= probable ? !(value >= 0 && value <= 1) : !is_finite(value);
    base[c] = value;
  }
  bad = simt::sync_block_any(bad);
  if (probable) {
    const double total = canonical_total(
        n, [base](std::size_t c) { return base[c]; }, shared);
    bad |= !(total - 1 <= kMostOff && 1 - total <= kMostOff);
  }
  if (bad && simt::thread() == 0) args.refused[query] = 1;
}

}  // namespace device
}  // namespace resmem
