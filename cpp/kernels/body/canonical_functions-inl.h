// The canonical exp, log, softmax and weights, over a lane type as canonical-inl.h describes it.
#pragma once

#include "canonical-inl.h"

namespace resmem {
namespace {

constexpr double kLn2High = 0x1.62e42fee00000p-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

// c_first + x * (c_{first+1} + .. x * c_last), innermost first, with c_j = coefficient(j).
template <double (*coefficient)(int), int kFirst, int kLast, class V>
RESMEM_INLINE V polynomial(V x) {
  constexpr double kFirstTerm = coefficient(kFirst);
  if constexpr (kFirst == kLast)
    return V::set1(kFirstTerm);
  else
    return add(mul(polynomial<coefficient, kFirst + 1, kLast>(x), x), V::set1(kFirstTerm));
}

// The float64 nearest 1/n!, n <= 13: the factorial itself is exact.
RESMEM_INLINE constexpr double inverse_factorial(int n) {
  double factorial = 1;
  for (int i = 2; i <= n; ++i) factorial *= i;
  return 1 / factorial;
}

template <class V>
RESMEM_INLINE V canonical_exp(V x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  const V shift = V::set1(0x1.8p52);
  x = min(max(x, V::set1(-746.0)), V::set1(710.0));
  const V n = sub(add(mul(x, V::set1(kLog2e)), shift), shift);
  const V r = sub(sub(x, mul(n, V::set1(kLn2High))), mul(n, V::set1(kLn2Low)));
  const V q = polynomial<inverse_factorial, 2, 13>(r);
  const V e = add(V::set1(1.0), add(r, mul(mul(r, r), q)));
  const V half = add(mul(n, V::set1(0.5)), shift);  // n1, shifted
  const V n2 = sub(n, sub(half, shift));
  return mul(mul(e, pow2_of_shifted(half)), pow2_of_shifted(add(n2, shift)));
}

// Of 2 atanh(f) = f (2 + 2/3 f^2 + 2/5 f^4 ..).
RESMEM_INLINE constexpr double atanh_coefficient(int j) { return 2.0 / (2 * j + 1); }

template <class V>
RESMEM_INLINE V canonical_log(V x) {
  constexpr int kTerms = 10;  // j = 1 .. 10: what is left out is below 2^-60 of the result
  const auto parts = log_parts(x);
  const V one = V::set1(1.0);
  const V f = div(sub(parts.mantissa, one), add(parts.mantissa, one));
  const V s = mul(f, f);
  const V q = polynomial<atanh_coefficient, 1, kTerms>(s);
  const V tail = add(mul(mul(f, s), q), mul(parts.exponent, V::set1(kLn2Low)));
  return add(mul(parts.exponent, V::set1(kLn2High)), add(add(f, f), tail));
}

// x[i] = function(x[i]), i < n.
template <class V, V (*function)(V)>
RESMEM_INLINE void apply_in_place(double* x, std::size_t n) {
  std::size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) function(V::load(x + i)).store(x + i);
  if (i < n) {
    double lane[V::kLanes];
    for (double& each : lane) each = 1;
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    function(V::load(lane)).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) x[i + j] = lane[j];
  }
}

template <class V>
RESMEM_INLINE double largest_lane(V x) {
  double lane[V::kLanes];
  x.store(lane);
  double largest = lane[0];
  for (const double each : lane) largest = each > largest ? each : largest;
  return largest;
}

template <class V>
RESMEM_INLINE void canonical_softmax(const float* logits, double temperature, double* out,
                                     std::size_t n) {
  const V scale = V::set1(temperature);
  V largest_lanes = V::set1(-__builtin_inf());
  std::size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    const V z = div(V::widen(logits + i), scale);
    z.store(out + i);
    largest_lanes = max(largest_lanes, z);
  }
  double largest = largest_lane(largest_lanes);
  for (; i < n; ++i) {
    out[i] = static_cast<double>(logits[i]) / temperature;
    largest = out[i] > largest ? out[i] : largest;
  }
  for (i = 0; i < n; ++i) out[i] -= largest;
  apply_in_place<V, canonical_exp<V>>(out, n);
  const double total = canonical_csum<V>(out, n);
  for (i = 0; i < n; ++i) out[i] /= total;
}

// The weights of count >= 1 neighbours, not divided by their sum, which it returns.
template <class V>
RESMEM_INLINE double canonical_weights(const double* distances, std::size_t count, double sigma,
                                       double* out) {
  const V nearest = V::set1(distances[0]), scale = V::set1(sigma);
  std::size_t j = 0;
  for (; j + V::kLanes <= count; j += V::kLanes)
    canonical_exp(div(sub(nearest, V::load(distances + j)), scale)).store(out + j);
  if (j < count) {
    const std::size_t rest = j;
    for (; j < count; ++j) out[j] = (distances[0] - distances[j]) / sigma;
    apply_in_place<V, canonical_exp<V>>(out + rest, count - rest);
  }
  double total = 0;
  for (j = 0; j < count; ++j) total += out[j];
  return total;
}

}  // namespace
}  // namespace resmem
