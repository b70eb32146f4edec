// The canonical kernels of the table: canonical arithmetic over this ISA's F64.
#pragma once

#include "../table.h"
#include "canonical-inl.h"
#include "canonical_functions-inl.h"

namespace resmem {
namespace {

constexpr int kPartialVectors = vectors_of_partials<F64>();

double squared_distance(const float* q, const float* x, std::size_t d) {
  return canonical_distance<F64>(q, x, d);
}
double squared_distance64(const double* q, const double* x, std::size_t d) {
  return canonical_distance<F64>(q, x, d);
}

void squared_distances(const float* const* q, const float* const* x, std::size_t count,
                       std::size_t d, double* out) {
  constexpr int kSums = kPartialVectors < 4 ? 4 : 1;  // accumulators that stay in registers
  std::size_t s = 0;
  for (; s + kSums <= count; s += kSums) canonical_distances<F64, kSums>(q + s, x + s, d, out + s);
  for (; s < count; ++s) canonical_distances<F64, 1>(q + s, x + s, d, out + s);
}

double dot(const float* q, const float* x, std::size_t d) { return canonical_dot<F64>(q, x, d); }
double dot64(const double* q, const double* x, std::size_t d) {
  return canonical_dot<F64>(q, x, d);
}
double csum(const double* terms, std::size_t n) { return canonical_csum<F64>(terms, n); }

void exp_in_place(double* x, std::size_t n) { apply_in_place<F64, canonical_exp<F64>>(x, n); }
void log_in_place(double* x, std::size_t n) { apply_in_place<F64, canonical_log<F64>>(x, n); }

void softmax(const float* logits, double temperature, double* out, std::size_t n) {
  canonical_softmax<F64>(logits, temperature, out, n);
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
