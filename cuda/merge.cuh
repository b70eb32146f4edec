// This kernel merges the nearest rows that several devices have found, each among its own.
#pragma once

#include "rank.cuh"

namespace resmem {
namespace device {

struct MergeArgs {
  Nearest nearest, other, spare;  // (queries, k) each, by number; what `spare` holds is lost
  std::size_t k;
};

// Puts the rows of one list where their ranks in both lists say.
RESMEM_DEVICE void put_ranked(const Nearest& list, const Nearest& other, const Nearest& to,
                              std::size_t first, std::size_t k) {
  for (std::size_t j = simt::thread(); j < k; j += simt::threads()) {
    const std::int64_t id = list.ids[first + j];
    if (id < 0) continue;
    const double key = list.keys[first + j];
    const std::size_t at = j + rank_among_nearest(other, first, k, key, id);
    const std::int64_t position = list.positions != nullptr ? list.positions[first + j] : -1;
    if (at < k) put(to, first + at, key, id, position);
  }
}

// Leaves the k nearest of both lists in the first. A block works on one query. No id is in both.
RESMEM_KERNEL void RESMEM_BOUNDS(kRankThreads, 8) merge_nearest(const MergeArgs args) {
  const std::size_t first = std::size_t{simt::block_x()} * args.k;
  for (std::size_t j = simt::thread(); j < args.k; j += simt::threads())
    put(args.spare, first + j, __builtin_inf(), -1, -1);
  simt::sync_block();
  put_ranked(args.nearest, args.other, args.spare, first, args.k);
  put_ranked(args.other, args.nearest, args.spare, first, args.k);
  simt::sync_block();
  for (std::size_t j = simt::thread(); j < args.k; j += simt::threads()) {
    const std::size_t at = first + j;
    put(args.nearest, at, args.spare.keys[at], args.spare.ids[at],
        args.spare.positions != nullptr ? args.spare.positions[at] : -1);
  }
}

}  // namespace device
}  // namespace resmem
