// Sums at many settings at once, and what they come to once clipped or projected onto the simplex.
#pragma once

#include "../table.h"
#include "exact-inl.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

// kScales sums of the same rows under weights of their own, kVectors vectors of columns at a
// time: every widened number serves all scales.
template <int kScales, int kVectors>
RESMEM_INLINE void sums_tile(const SumsArgs& args, std::size_t scale, std::size_t c) {
  F64 sum[kScales][kVectors];
  double* const to = args.sums + scale * args.ld + c;
  unroll<kScales>([&](auto i) RESMEM_LAMBDA {
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      sum[i.value][v.value] = F64::load(to + i.value * args.ld + v.value * F64::kLanes);
    });
  });
  const double* weight = args.weights + scale;
  for (std::size_t j = 0; j < args.count; ++j, weight += args.scales) {
    F64 x[kVectors];
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      x[v.value] = F64::widen(args.rows[j] + c + v.value * F64::kLanes);
    });
    unroll<kScales>([&](auto i) RESMEM_LAMBDA {
      const F64 w = F64::set1(weight[i.value]);
      unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
        sum[i.value][v.value] = add(sum[i.value][v.value], mul(w, x[v.value]));
      });
    });
  }
  unroll<kScales>([&](auto i) RESMEM_LAMBDA {
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      sum[i.value][v.value].store(to + i.value * args.ld + v.value * F64::kLanes);
    });
  });
}

template <int kScales>
void sums_of_scales(const SumsArgs& args, std::size_t scale) {
  std::size_t c = 0;
  for (; c + 2 * F64::kLanes <= args.columns; c += 2 * F64::kLanes)
    sums_tile<kScales, 2>(args, scale, c);
  for (; c + F64::kLanes <= args.columns; c += F64::kLanes) sums_tile<kScales, 1>(args, scale, c);
  for (; c < args.columns; ++c)
    for (std::size_t i = scale; i < scale + kScales; ++i) {
      double sum = args.sums[i * args.ld + c];
      for (std::size_t j = 0; j < args.count; ++j)
        sum += args.weights[j * args.scales + i] * static_cast<double>(args.rows[j][c]);
      args.sums[i * args.ld + c] = sum;
    }
}

void weighted_sums(const SumsArgs& args) {
  std::size_t i = 0;
  for (; i + 4 <= args.scales; i += 4) sums_of_scales<4>(args, i);
  for (; i < args.scales; ++i) sums_of_scales<1>(args, i);
}

// The largest lane of eight partial maxima.
RESMEM_INLINE double largest_of(const F64* partial) {
  F64 most = partial[0];
  for (int v = 1; v < kPartialVectors; ++v) most = max(most, partial[v]);
  return largest_lane(most);
}

ClippedSums clipped_sums(const double* base, const double* sums, const double* floors,
                         double factor, std::size_t n) {
  const F64 scale = F64::set1(factor);
  F64 total[kPartialVectors], squares[kPartialVectors], largest[kPartialVectors];
  unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
    total[v.value] = squares[v.value] = largest[v.value] = F64::set1(0.0);
  });
  for (std::size_t i = 0; i < n; i += kPartials)
    unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
      const std::size_t at = i + v.value * F64::kLanes;
      const F64 x =
          max(add(F64::load(base + at), mul(scale, F64::load(sums + at))), F64::load(floors + at));
      total[v.value] = add(total[v.value], x);
      squares[v.value] = add(squares[v.value], mul(x, x));
      largest[v.value] = max(x, largest[v.value]);
    });
  return {combine(total), combine(squares), largest_of(largest)};
}

// kFactors factors at a time: each sum waits for its last addition, and there are only
// kPartialVectors of a factor.
template <int kFactors>
RESMEM_INLINE void totals_tile(const double* base, const double* sums, const double* floors,
                               const double* factors, std::size_t n, double* out) {
  F64 scale[kFactors], total[kFactors][kPartialVectors];
  unroll<kFactors>([&](auto f) RESMEM_LAMBDA {
    scale[f.value] = F64::set1(factors[f.value]);
    unroll<kPartialVectors>([&](auto v)
                                RESMEM_LAMBDA { total[f.value][v.value] = F64::set1(0.0); });
  });
  for (std::size_t i = 0; i < n; i += kPartials)
    unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
      const std::size_t at = i + v.value * F64::kLanes;
      const F64 b = F64::load(base + at), s = F64::load(sums + at), least = F64::load(floors + at);
      unroll<kFactors>([&](auto f) RESMEM_LAMBDA {
        F64& sum = total[f.value][v.value];
        sum = add(sum, max(add(b, mul(scale[f.value], s)), least));
      });
    });
  for (int f = 0; f < kFactors; ++f) out[f] = combine(total[f]);
}

void clipped_totals(const double* base, const double* sums, const double* floors,
                    const double* factors, std::size_t count, std::size_t n, double* out) {
  constexpr int kFactors = kPartialVectors < 4 ? 3 : 1;
  std::size_t f = 0;
  for (; f + kFactors <= count; f += kFactors)
    totals_tile<kFactors>(base, sums, floors, factors + f, n, out + f);
  for (; f < count; ++f) totals_tile<1>(base, sums, floors, factors + f, n, out + f);
}

double projection_shift(const double* x, std::size_t n, double mass) {
  double shift = -__builtin_inf(), before = __builtin_inf();
  while (true) {
    const F64 t = F64::set1(shift), one = F64::set1(1.0);
    F64 total[kPartialVectors], count[kPartialVectors];
    unroll<kPartialVectors>(
        [&](auto v) RESMEM_LAMBDA { total[v.value] = count[v.value] = F64::set1(0.0); });
    for (std::size_t i = 0; i < n; i += kPartials)
      unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
        const F64 value = F64::load(x + i + v.value * F64::kLanes);
        total[v.value] = add(total[v.value], keep_greater(value, t, value));
        count[v.value] = add(count[v.value], keep_greater(value, t, one));
      });
    const double kept = combine(count);
    if (!(kept < before) || kept == 0) return shift;
    shift = (combine(total) - mass) / kept;
    before = kept;
  }
}

constexpr void fill_tuning(SumKernels& kernels) {
  kernels.weighted_sums = weighted_sums;
  kernels.clipped_sums = clipped_sums;
  kernels.clipped_totals = clipped_totals;
  kernels.projection_shift = projection_shift;
}

}  // namespace
}  // namespace resmem
