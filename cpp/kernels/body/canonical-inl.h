// Canonical arithmetic: float64 in eight partial sums, no FMA; exp, log and softmax.
#pragma once

#include "../table.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

constexpr int kPartialVectors = static_cast<int>(kPartials) / F64::kLanes;

// The fixed tree over the partial sums; its first level is p_i + p_{i+4}.
RESMEM_INLINE double combine(const F64* partial) {
  constexpr int kHalf = static_cast<int>(kPartials) / 2;
  double sum[kPartials];
  if constexpr (kPartialVectors == 1) {
    partial[0].store(sum);
    for (int i = 0; i < kHalf; ++i) sum[i] += sum[i + kHalf];
  } else {
    unroll<kPartialVectors / 2>([&](auto v) RESMEM_LAMBDA {
      add(partial[v.value], partial[v.value + kPartialVectors / 2])
          .store(sum + v.value * F64::kLanes);
    });
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// The canonical sums of term(s, i) for i < n; `vector_term(s, i)` gives F64::kLanes terms from i
// on. Several at a time do not wait for their additions.
template <int kSums, class VectorTerm, class Term>
RESMEM_INLINE void canonical_sums(std::size_t n, const VectorTerm& vector_term, const Term& term,
                                  double* out) {
  F64 partial[kSums][kPartialVectors];
  unroll<kSums>([&](auto s) RESMEM_LAMBDA {
    unroll<kPartialVectors>([&](auto v)
                                RESMEM_LAMBDA { partial[s.value][v.value] = F64::set1(0.0); });
  });
  std::size_t i = 0;
  for (; i + kPartials <= n; i += kPartials)
    unroll<kSums>([&](auto s) RESMEM_LAMBDA {
      unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
        F64& sum = partial[s.value][v.value];
        sum = add(sum, vector_term(s.value, i + v.value * F64::kLanes));
      });
    });
  if (i < n) {  // the last few, padded with zeros
    double tail[kSums][kPartials] = {};
    for (int s = 0; s < kSums; ++s)
      for (std::size_t j = 0; j < n - i; ++j) tail[s][j] = term(s, i + j);
    unroll<kSums>([&](auto s) RESMEM_LAMBDA {
      unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
        F64& sum = partial[s.value][v.value];
        sum = add(sum, F64::load(tail[s.value] + v.value * F64::kLanes));
      });
    });
  }
  unroll<kSums>([&](auto s) RESMEM_LAMBDA { out[s.value] = combine(partial[s.value]); });
}

template <class VectorTerm, class Term>
RESMEM_INLINE double canonical_sum(std::size_t n, const VectorTerm& vector_term, const Term& term) {
  double sum;
  canonical_sums<1>(
      n, [&](int, std::size_t i) RESMEM_LAMBDA { return vector_term(i); },
      [&](int, std::size_t i) RESMEM_LAMBDA { return term(i); }, &sum);
  return sum;
}

// T is float or double, of queries and rows alike.
template <int kSums, class T>
RESMEM_INLINE void some_distances(const T* const* q, const T* const* x, std::size_t d,
                                  double* out) {
  canonical_sums<kSums>(
      d,
      [&](int s, std::size_t i) RESMEM_LAMBDA {
        const F64 t = sub(F64::widen(q[s] + i), F64::widen(x[s] + i));
        return mul(t, t);
      },
      [&](int s, std::size_t i) RESMEM_LAMBDA {
        const double t = static_cast<double>(q[s][i]) - static_cast<double>(x[s][i]);
        return t * t;
      },
      out);
}

void squared_distances(const float* const* q, const float* const* x, std::size_t count,
                       std::size_t d, double* out) {
  constexpr int kSums = kPartialVectors < 4 ? 4 : 1;  // accumulators that stay in registers
  std::size_t s = 0;
  for (; s + kSums <= count; s += kSums) some_distances<kSums>(q + s, x + s, d, out + s);
  for (; s < count; ++s) some_distances<1>(q + s, x + s, d, out + s);
}

double squared_distance(const float* q, const float* x, std::size_t d) {
  double out;
  some_distances<1>(&q, &x, d, &out);
  return out;
}

double squared_distance64(const double* q, const double* x, std::size_t d) {
  double out;
  some_distances<1>(&q, &x, d, &out);
  return out;
}

template <class T>
RESMEM_INLINE double dot_of(const T* q, const T* x, std::size_t d) {
  return canonical_sum(
      d, [&](std::size_t i) RESMEM_LAMBDA { return mul(F64::widen(q + i), F64::widen(x + i)); },
      [&](std::size_t i)
          RESMEM_LAMBDA { return static_cast<double>(q[i]) * static_cast<double>(x[i]); });
}

double dot(const float* q, const float* x, std::size_t d) { return dot_of(q, x, d); }
double dot64(const double* q, const double* x, std::size_t d) { return dot_of(q, x, d); }

double csum(const double* terms, std::size_t n) {
  return canonical_sum(
      n, [&](std::size_t i) RESMEM_LAMBDA { return F64::load(terms + i); },
      [&](std::size_t i) RESMEM_LAMBDA { return terms[i]; });
}

constexpr double kShift = 0x1.8p52;
constexpr double kLog2e = 0x1.71547652b82fep+0;
constexpr double kLn2High = 0x1.62e42fee00000p-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kInverseFactorial[14] = {1.0,
                                          1.0,
                                          1.0 / 2,
                                          1.0 / 6,
                                          1.0 / 24,
                                          1.0 / 120,
                                          1.0 / 720,
                                          1.0 / 5040,
                                          1.0 / 40320,
                                          1.0 / 362880,
                                          1.0 / 3628800,
                                          1.0 / 39916800,
                                          1.0 / 479001600,
                                          1.0 / 6227020800};

RESMEM_INLINE F64 canonical_exp(F64 x) {
  const F64 shift = F64::set1(kShift);
  x = min(max(x, F64::set1(-746.0)), F64::set1(710.0));
  const F64 n = sub(add(mul(x, F64::set1(kLog2e)), shift), shift);
  const F64 r = sub(sub(x, mul(n, F64::set1(kLn2High))), mul(n, F64::set1(kLn2Low)));
  F64 q = F64::set1(kInverseFactorial[13]);
  unroll<11>([&](auto j)
                 RESMEM_LAMBDA { q = add(mul(q, r), F64::set1(kInverseFactorial[12 - j.value])); });
  const F64 e = add(F64::set1(1.0), add(r, mul(mul(r, r), q)));
  const F64 half = add(mul(n, F64::set1(0.5)), shift);  // n1, shifted
  const F64 n2 = sub(n, sub(half, shift));
  return mul(mul(e, pow2_of_shifted(half)), pow2_of_shifted(add(n2, shift)));
}

void exp_in_place(double* x, std::size_t n) {
  std::size_t i = 0;
  for (; i + F64::kLanes <= n; i += F64::kLanes) canonical_exp(F64::load(x + i)).store(x + i);
  if (i < n) {
    double lane[F64::kLanes] = {};
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    canonical_exp(F64::load(lane)).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) x[i + j] = lane[j];
  }
}

constexpr int kLogTerms = 10;  // j = 1 .. 10: what is left out is below 2^-60 of the result
constexpr double kAtanhTerm[kLogTerms + 1] = {2.0,      2.0 / 3,  2.0 / 5,  2.0 / 7,
                                              2.0 / 9,  2.0 / 11, 2.0 / 13, 2.0 / 15,
                                              2.0 / 17, 2.0 / 19, 2.0 / 21};

RESMEM_INLINE F64 canonical_log(F64 x) {
  const LogParts parts = log_parts(x);
  const F64 one = F64::set1(1.0);
  const F64 f = div(sub(parts.mantissa, one), add(parts.mantissa, one));
  const F64 s = mul(f, f);
  F64 q = F64::set1(kAtanhTerm[kLogTerms]);
  unroll<kLogTerms - 1>([&](auto j) RESMEM_LAMBDA {
    q = add(mul(q, s), F64::set1(kAtanhTerm[kLogTerms - 1 - j.value]));
  });
  const F64 tail = add(mul(mul(f, s), q), mul(parts.exponent, F64::set1(kLn2Low)));
  return add(mul(parts.exponent, F64::set1(kLn2High)), add(add(f, f), tail));
}

void log_in_place(double* x, std::size_t n) {
  std::size_t i = 0;
  for (; i + F64::kLanes <= n; i += F64::kLanes) canonical_log(F64::load(x + i)).store(x + i);
  if (i < n) {
    double lane[F64::kLanes];
    for (double& each : lane) each = 1;
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    canonical_log(F64::load(lane)).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) x[i + j] = lane[j];
  }
}

void softmax(const float* logits, double temperature, double* out, std::size_t n) {
  const F64 scale = F64::set1(temperature);
  F64 largest_lanes = F64::set1(-__builtin_inf());
  std::size_t i = 0;
  for (; i + F64::kLanes <= n; i += F64::kLanes) {
    const F64 z = div(F64::widen(logits + i), scale);
    z.store(out + i);
    largest_lanes = max(largest_lanes, z);
  }
  double lane[F64::kLanes];
  largest_lanes.store(lane);
  double largest = lane[0];
  for (const double each : lane) largest = each > largest ? each : largest;
  for (; i < n; ++i) {
    out[i] = static_cast<double>(logits[i]) / temperature;
    largest = out[i] > largest ? out[i] : largest;
  }
  for (i = 0; i < n; ++i) out[i] -= largest;
  exp_in_place(out, n);
  const double total = csum(out, n);
  for (i = 0; i < n; ++i) out[i] /= total;
}

constexpr void fill_exact(ExactKernels& kernels) {
  kernels.squared_distance = squared_distance;
  kernels.squared_distances = squared_distances;
  kernels.squared_distance64 = squared_distance64;
  kernels.dot = dot;
  kernels.dot64 = dot64;
  kernels.csum = csum;
  kernels.exp = exp_in_place;
  kernels.log = log_in_place;
  kernels.softmax = softmax;
}

}  // namespace
}  // namespace resmem
