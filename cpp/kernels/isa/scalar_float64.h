// The lane type of a single float64, for the portable kernels and for the compiler of a device.
#pragma once

#include "../float64_bits.h"

namespace resmem {
namespace {

struct F64 {
  double v;
  static constexpr int kLanes = 1;
  static RESMEM_INLINE F64 set1(double x) { return {x}; }
  static RESMEM_INLINE F64 load(const double* p) { return {*p}; }
  static RESMEM_INLINE F64 widen(const float* p) { return {static_cast<double>(*p)}; }
  static RESMEM_INLINE F64 widen(const double* p) { return load(p); }
  RESMEM_INLINE void store(double* p) const { *p = v; }
  RESMEM_INLINE void narrow(float* p) const { *p = static_cast<float>(v); }
};
RESMEM_INLINE F64 add(F64 a, F64 b) { return {a.v + b.v}; }
RESMEM_INLINE F64 sub(F64 a, F64 b) { return {a.v - b.v}; }
RESMEM_INLINE F64 mul(F64 a, F64 b) { return {a.v * b.v}; }
RESMEM_INLINE F64 abs(F64 a) { return {a.v < 0 ? -a.v : a.v}; }
RESMEM_INLINE F64 div(F64 a, F64 b) { return {a.v / b.v}; }
RESMEM_INLINE F64 min(F64 a, F64 b) { return {a.v < b.v ? a.v : b.v}; }
RESMEM_INLINE F64 max(F64 a, F64 b) { return {a.v > b.v ? a.v : b.v}; }
RESMEM_INLINE F64 pow2_of_shifted(F64 shifted) { return {pow2_of_shifted(shifted.v)}; }
// x where v > t, else 0.
RESMEM_INLINE F64 keep_greater(F64 v, F64 t, F64 x) { return {v.v > t.v ? x.v : 0.0}; }
RESMEM_INLINE LogParts<F64> log_parts(F64 x) {
  const LogParts<double> parts = log_parts(x.v);
  return {{parts.exponent}, {parts.mantissa}};
}

}  // namespace
}  // namespace resmem
