// This kernel makes queries ready to be looked for among rows that were coded together.
#pragma once

#include "codes.h"
#include "rank.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kStateThreads = 256;

struct StateArgs {
  const CodeFacts* facts;  // (queries,) by place
  const double* squares;   // (queries,) by place
  std::uint32_t count;
  unsigned d;
  KeyKind kind;
  const std::uint64_t* largest_square;  // of the rows, for inner products
  Nearest nearest;                      // by number: the k-th bounds the reach
  std::size_t k;
  QueryState* states;  // (queries,) by place
  std::uint32_t* hit_counts;
};

RESMEM_KERNEL void begin_queries(const StateArgs args) {
  const std::size_t place = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (place >= args.count) return;
  const CodeFacts facts = args.facts[place];
  const double longest = longest_of(args.kind, args.largest_square, args.d);
  const KeyDistance distance = key_distance(args.kind, args.squares[place], longest, args.d);
  const double kth = args.nearest.keys[(std::size_t{facts.vector} + 1) * args.k - 1];
  args.states[place] = {facts.square,
                        facts.error,
                        facts.exponent,
                        facts.vector,
                        kth < __builtin_inf() ? distance.high(kth) : __builtin_inf(),
                        static_cast<float>(__builtin_inf()),
                        0,
                        distance};
  args.hit_counts[place] = 0;
}

// Marks rows as removed at the versions `stamps`.
RESMEM_KERNEL void stamp_rows(const std::int64_t* rows, const std::int64_t* stamps,
                              std::size_t count, std::int64_t* died) {
  const std::size_t i = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (i < count) died[rows[i]] = stamps[i];
}

}  // namespace device
}  // namespace resmem
