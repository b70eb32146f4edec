// The filter of few queries: each reads the raw rows once, front to back.
#pragma once

#include "../table.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

// Rows follow one another, so this is also the next rows' data. Hardware prefetchers stop at the
// end of a page; two pages (8 KB) of lead hide the start of the next one.
constexpr std::size_t kStreamAhead = 2048;

// -(query - row)^2, left in the lanes of one vector. The row is read front to back, which is
// what the hardware prefetcher follows; four chains hide the latency of the sum.
RESMEM_INLINE F32 lane_sums(const float* query, const float* row, std::size_t d) {
  constexpr std::size_t kChains = 4, kStep = kChains * F32::kLanes;
  F32 acc[kChains];
  unroll<kChains>([&](auto j) RESMEM_LAMBDA { acc[j.value] = F32::set1(0.0F); });
  const auto take = [&](F32& sum, F32 q, F32 x) RESMEM_LAMBDA {
    const F32 t = sub(q, x);
    sum = fnma(t, t, sum);
  };
  std::size_t p = 0;
  for (; p + kStep <= d; p += kStep)
    unroll<kChains>([&](auto j) RESMEM_LAMBDA {
      const std::size_t at = p + j.value * F32::kLanes;
      if constexpr (j.value * F32::kLanes % kLine == 0) __builtin_prefetch(row + at + kStreamAhead);
      take(acc[j.value], F32::load(query + at), F32::load(row + at));
    });
  for (; p + F32::kLanes <= d; p += F32::kLanes)
    take(acc[0], F32::load(query + p), F32::load(row + p));
  if (p < d) {
    const int rest = static_cast<int>(d - p);
    take(acc[1], F32::load_first(query + p, rest), F32::load_first(row + p, rest));
  }
  return add(add(acc[0], acc[1]), add(acc[2], acc[3]));
}

// Eight rows share one reduction over lanes.
std::size_t stream_diff(const StreamArgs& args) {
  constexpr std::size_t kRows = 8;
  std::size_t found = 0;
  for (std::size_t row = 0; row < args.row_count; row += kRows) {
    const std::size_t count = args.row_count - row < kRows ? args.row_count - row : kRows;
    F32 sums[kRows];
    for (std::size_t i = 0; i < count; ++i)
      sums[i] = lane_sums(args.query, args.rows + (row + i) * args.d, args.d);
    for (std::size_t i = count; i < kRows; ++i) sums[i] = F32::set1(0.0F);
    float score[kRows];
    add_lanes(sums, score);
    for (std::size_t i = 0; i < count; ++i) {
      args.hits[found] = {score[i], static_cast<std::uint32_t>(row + i) * kMaxQueryLanes};
      found += score[i] >= args.threshold ? 1 : 0;
    }
  }
  return found;
}

constexpr void fill_stream(FilterKernels& kernels) { kernels.stream_diff = stream_diff; }

}  // namespace
}  // namespace resmem
