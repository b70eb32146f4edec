// Canonical arithmetic (cpp/CONTRACT.md), written over a lane type V of 1, 2, 4 or 8 float64:
//
//   V::kLanes, V::set1, V::load, store  lanes, and where they come from and go to
//   V::widen                            the lanes that follow a const float* or const double*
//   add, sub, mul, div, min, max        of every lane, each rounded once
//   pow2_of_shifted, log_parts          of every lane (float64_bits.h)
//
// A lane type must see to it that no multiplication is contracted with an addition; the operations
// on plain doubles below multiply nothing that they add. There are neither intrinsics nor lambdas
// nor the standard library here, so that the compiler of a device can include this file with a
// lane type of its own, after it has defined RESMEM_INLINE as what its functions are declared with.
#pragma once

#include "../table.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

template <class V>
RESMEM_INLINE constexpr int vectors_of_partials() {
  return static_cast<int>(kPartials) / V::kLanes;
}

template <class V, int... I>
RESMEM_INLINE void add_halves(const V* partial, double* sum, Indices<I...>) {
  (add(partial[I], partial[I + static_cast<int>(sizeof...(I))]).store(sum + I * V::kLanes), ...);
}

// The fixed tree over the partial sums; its first level is p_i + p_{i+4}.
template <class V>
RESMEM_INLINE double combine(const V* partial) {
  constexpr int kHalf = static_cast<int>(kPartials) / 2;
  double sum[kPartials];
  if constexpr (vectors_of_partials<V>() == 1) {
    partial[0].store(sum);
    for (int i = 0; i < kHalf; ++i) sum[i] += sum[i + kHalf];
  } else {
    add_halves(partial, sum, indices<vectors_of_partials<V>() / 2>());
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// Terms of several sums: one(s, i) is term i of sum s, and lanes<V>(s, i) are V::kLanes from i on.
// T is float or double, of queries and rows alike.
template <class T>
struct SquaredDifferences {
  const T* const* q;
  const T* const* x;
  template <class V>
  RESMEM_INLINE V lanes(std::size_t s, std::size_t i) const {
    const V t = sub(V::widen(q[s] + i), V::widen(x[s] + i));
    return mul(t, t);
  }
  RESMEM_INLINE double one(std::size_t s, std::size_t i) const {
    const double t = static_cast<double>(q[s][i]) - static_cast<double>(x[s][i]);
    return t * t;
  }
};

template <class T>
struct Products {  // of one sum
  const T* q;
  const T* x;
  template <class V>
  RESMEM_INLINE V lanes(std::size_t, std::size_t i) const {
    return mul(V::widen(q + i), V::widen(x + i));
  }
  RESMEM_INLINE double one(std::size_t, std::size_t i) const {
    return static_cast<double>(q[i]) * static_cast<double>(x[i]);
  }
};

struct GivenTerms {
  const double* terms;
  std::size_t ld;  // from one sum's terms to the next one's
  template <class V>
  RESMEM_INLINE V lanes(std::size_t s, std::size_t i) const {
    return V::load(terms + s * ld + i);
  }
  RESMEM_INLINE double one(std::size_t s, std::size_t i) const { return terms[s * ld + i]; }
};

// Adds the terms from i on to the partial sums; those of one sum after those of the other.
template <class V, class Terms, int... I>
RESMEM_INLINE void add_terms(V* partial, const Terms& terms, std::size_t i, Indices<I...>) {
  constexpr int kVectors = vectors_of_partials<V>();
  ((partial[I] =
        add(partial[I], terms.template lanes<V>(I / kVectors, i + I % kVectors * V::kLanes))),
   ...);
}

template <class V, int... I>
RESMEM_INLINE void set_to_zero(V* partial, Indices<I...>) {
  ((partial[I] = V::set1(0.0)), ...);
}

template <class V, int... S>
RESMEM_INLINE void combine_all(const V* partial, double* out, Indices<S...>) {
  ((out[S] = combine(partial + S * vectors_of_partials<V>())), ...);
}

// kSums canonical sums of n terms each. Several at a time do not wait for their additions.
template <class V, int kSums, class Terms>
RESMEM_INLINE void canonical_sums(std::size_t n, const Terms& terms, double* out) {
  constexpr int kVectors = vectors_of_partials<V>();
  constexpr auto kAll = indices<kSums * kVectors>();
  V partial[kSums * kVectors];
  set_to_zero(partial, kAll);
  std::size_t i = 0;
  for (; i + kPartials <= n; i += kPartials) add_terms(partial, terms, i, kAll);
  if (i < n) {  // the last few, padded with zeros
    double tail[kSums][kPartials] = {};
    for (std::size_t s = 0; s < kSums; ++s)
      for (std::size_t j = 0; j < n - i; ++j) tail[s][j] = terms.one(s, i + j);
    add_terms(partial, GivenTerms{tail[0], kPartials}, 0, kAll);
  }
  combine_all(partial, out, indices<kSums>());
}

template <class V, int kSums, class T>
RESMEM_INLINE void canonical_distances(const T* const* q, const T* const* x, std::size_t d,
                                       double* out) {
  canonical_sums<V, kSums>(d, SquaredDifferences<T>{q, x}, out);
}

template <class V, class T>
RESMEM_INLINE double canonical_distance(const T* q, const T* x, std::size_t d) {
  double out;
  canonical_distances<V, 1>(&q, &x, d, &out);
  return out;
}

template <class V, class T>
RESMEM_INLINE double canonical_dot(const T* q, const T* x, std::size_t d) {
  double out;
  canonical_sums<V, 1>(d, Products<T>{q, x}, &out);
  return out;
}

template <class V>
RESMEM_INLINE double canonical_csum(const double* terms, std::size_t n) {
  double out;
  canonical_sums<V, 1>(n, GivenTerms{terms, 0}, &out);
  return out;
}

}  // namespace
}  // namespace resmem
