// Rows and queries on their way into the filters: centred, scaled and rounded to float32; and the
// largest component, which their scale comes from.
#pragma once

#include "../table.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

void stage(const float* x, const float* offset, float scale, float* out, std::size_t d) {
  const F32 s = F32::set1(scale);
  std::size_t p = 0;
  for (; p + F32::kLanes <= d; p += F32::kLanes)
    sub(mul(F32::load(x + p), s), F32::load(offset + p)).store(out + p);
  for (; p < d; ++p) out[p] = x[p] * scale - offset[p];
}

void stage_unit(const float* x, double scale, float* out, std::size_t d) {
  const F64 s = F64::set1(scale);
  std::size_t p = 0;
  for (; p + F64::kLanes <= d; p += F64::kLanes) mul(F64::widen(x + p), s).narrow(out + p);
  for (; p < d; ++p) out[p] = static_cast<float>(static_cast<double>(x[p]) * scale);
}

void stage64(const double* x, const double* offset, double scale, float* out, std::size_t d) {
  const F64 s = F64::set1(scale);
  std::size_t p = 0;
  for (; p + F64::kLanes <= d; p += F64::kLanes)
    sub(mul(F64::load(x + p), s), F64::load(offset + p)).narrow(out + p);
  for (; p < d; ++p) out[p] = static_cast<float>(x[p] * scale - offset[p]);
}

// V holds vectors of T.
template <class V, class T>
RESMEM_INLINE T largest_size(const T* x, std::size_t n) {
  V largest = V::set1(T{0}), zeros = V::set1(T{0});
  std::size_t p = 0;
  for (; p + V::kLanes <= n; p += V::kLanes) {
    const V value = V::load(x + p);
    largest = max(largest, abs(value));
    zeros = add(zeros, mul(value, V::set1(T{0})));  // stays 0 unless a value is inf or NaN
  }
  T lane[V::kLanes], zero[V::kLanes];
  largest.store(lane);
  zeros.store(zero);
  T result = 0, nan = 0;
  for (int i = 0; i < V::kLanes; ++i) {
    result = lane[i] > result ? lane[i] : result;
    nan += zero[i];
  }
  for (; p < n; ++p) {
    const T value = x[p] < 0 ? -x[p] : x[p];
    result = value > result ? value : result;
    nan += value * T{0};
  }
  return nan == 0 ? result : nan;
}

float max_abs(const float* x, std::size_t n) { return largest_size<F32>(x, n); }
double max_abs64(const double* x, std::size_t n) { return largest_size<F64>(x, n); }

constexpr void fill_stage(FilterKernels& kernels) {
  kernels.stage = stage;
  kernels.stage_unit = stage_unit;
  kernels.stage64 = stage64;
  kernels.max_abs = max_abs;
  kernels.max_abs64 = max_abs64;
}

}  // namespace
}  // namespace resmem
