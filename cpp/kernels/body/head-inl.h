// A linear layer: canonical dot products of its rows and a few keys.
#pragma once

#include "../table.h"
#include "exact-inl.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

// kKeys keys x kColumns rows of the layer, from row `first` on: the partial sums stay in
// registers, every widened weight serves all keys and every vector of a key all rows.
template <int kKeys, int kColumns>
RESMEM_INLINE void head_tile(const HeadArgs& args, std::size_t first) {
  F64 partial[kColumns][kKeys][kPartialVectors];
  unroll<kColumns>([&](auto c) RESMEM_LAMBDA {
    unroll<kKeys>([&](auto k) RESMEM_LAMBDA {
      unroll<kPartialVectors>(
          [&](auto v) RESMEM_LAMBDA { partial[c.value][k.value][v.value] = F64::set1(0.0); });
    });
  });
  const auto take = [&](const float* weight, std::size_t weight_ld, std::size_t i) RESMEM_LAMBDA {
    unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
      constexpr std::size_t at = v.value * F64::kLanes;
      F64 w[kColumns];
      unroll<kColumns>([&](auto c) RESMEM_LAMBDA {
        w[c.value] = F64::widen(weight + c.value * weight_ld + at);
      });
      unroll<kKeys>([&](auto k) RESMEM_LAMBDA {
        const F64 key = F64::load(args.panel + k.value * args.ld + i + at);
        unroll<kColumns>([&](auto c) RESMEM_LAMBDA {
          F64& sum = partial[c.value][k.value][v.value];
          sum = add(sum, mul(w[c.value], key));
        });
      });
    });
  };
  const float* weight = args.weight + first * args.d;
  std::size_t i = 0;
  for (; i + kPartials <= args.d; i += kPartials) take(weight + i, args.d, i);
  if (i < args.d) {  // the last few, padded with zeros like the keys
    float tail[kColumns][kPartials] = {};
    for (std::size_t c = 0; c < kColumns; ++c)
      for (std::size_t j = 0; j < args.d - i; ++j) tail[c][j] = weight[c * args.d + i + j];
    take(tail[0], kPartials, i);
  }
  constexpr double kLargest = 0x1.fffffep+127;
  for (std::size_t k = 0; k < kKeys && k < args.keys; ++k)
    for (std::size_t c = 0; c < kColumns; ++c) {
      double logit = combine(partial[c][k]) + static_cast<double>(args.bias[first + c]);
      logit = logit > kLargest ? kLargest : logit < -kLargest ? -kLargest : logit;
      args.out[k * args.out_ld + first + c] = static_cast<float>(logit);
    }
}

template <int kKeys, int kColumns>
void head_tiles(const HeadArgs& args) {
  std::size_t c = 0;
  for (; c + kColumns <= args.columns; c += kColumns) head_tile<kKeys, kColumns>(args, c);
  for (; c < args.columns; ++c) head_tile<kKeys, 1>(args, c);
}

// A single key gets as many sums by taking more rows.
void head_logits(const HeadArgs& args) {
  if (args.keys == 1)
    head_tiles<1, kHeadKeys * kHeadColumns>(args);
  else
    head_tiles<kHeadKeys, kHeadColumns>(args);
}

constexpr void fill_head(SumKernels& kernels) { kernels.head_logits = head_logits; }

}  // namespace
}  // namespace resmem
