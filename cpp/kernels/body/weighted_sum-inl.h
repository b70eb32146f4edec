// What a query makes of its neighbours: their weights, and the weighted sum of their residuals.
#pragma once

#include "../table.h"
#include "canonical_functions-inl.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

double neighbour_weights(const double* distances, std::size_t count, double sigma, double* out) {
  return canonical_weights<F64>(distances, count, sigma, out);
}

// out += the weighted sum of kRows rows, read front to back; `ahead[i]` is the row to fetch
// meanwhile, since rows lie at random places.
template <int kRows>
RESMEM_INLINE void add_rows(double* out, const float* const* rows, const float* const* ahead,
                            const double* weights, std::size_t columns) {
  F64 weight[kRows];
  const float *row[kRows], *later[kRows];  // copies: the stores to `out` cannot change them
  unroll<kRows>([&](auto i) RESMEM_LAMBDA {
    weight[i.value] = F64::set1(weights[i.value]);
    row[i.value] = rows[i.value];
    later[i.value] = ahead[i.value];
  });
  const auto add_at = [&](std::size_t c) RESMEM_LAMBDA {
    F64 sum = F64::load(out + c);
    unroll<kRows>([&](auto i) RESMEM_LAMBDA {
      sum = add(sum, mul(weight[i.value], F64::widen(row[i.value] + c)));
    });
    sum.store(out + c);
  };
  std::size_t c = 0;
  for (; c + kLine <= columns; c += kLine) {
    unroll<kRows>([&](auto i) RESMEM_LAMBDA { __builtin_prefetch(later[i.value] + c); });
    unroll<kLine / F64::kLanes>([&](auto v) RESMEM_LAMBDA { add_at(c + v.value * F64::kLanes); });
  }
  unroll<kRows>([&](auto i) RESMEM_LAMBDA { __builtin_prefetch(later[i.value] + c); });
  for (; c + F64::kLanes <= columns; c += F64::kLanes) add_at(c);
  for (; c < columns; ++c) {
    double sum = out[c];
    unroll<kRows>([&](auto i) RESMEM_LAMBDA {
      sum += weights[i.value] * static_cast<double>(row[i.value][c]);
    });
    out[c] = sum;
  }
}

// Four rows a pass: the sums are loaded and stored once per four rows read.
void weighted_sum(double* out, const float* const* rows, const double* weights, std::size_t count,
                  std::size_t columns) {
  // Short rows take less time than memory does: look further ahead.
  const std::size_t ahead = columns <= 256 ? kRowsAhead : kRowsAhead / 4;
  std::size_t j = 0;
  for (; j + 4 <= count; j += 4) add_rows<4>(out, rows + j, rows + j + ahead, weights + j, columns);
  for (; j < count; ++j) add_rows<1>(out, rows + j, rows + j + ahead, weights + j, columns);
}

constexpr void fill_weighted_sum(SumKernels& kernels) {
  kernels.neighbour_weights = neighbour_weights;
  kernels.weighted_sum = weighted_sum;
}

}  // namespace
}  // namespace resmem
