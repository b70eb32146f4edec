// These kernels find the rows of neighbours in memory and weigh the neighbours (cpp/CONTRACT.md,
// "Weights, correction, prediction").
#pragma once

#include "functions.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kLocateThreads = 256;
inline constexpr unsigned kWeighThreads = 128;
inline constexpr unsigned kLocatedSegments = 32;  // whose table a kernel takes as its argument

// The rows of a segment at the positions from `first` on.
struct LocatedSegment {
  std::int64_t first, n;
  const char* rows;             // residuals, indices or labels, `row_bytes` each
  const char* values;           // of sparse rows, `value_bytes` each
  const float* rest;            // of sparse rows
  const std::int64_t* classes;  // (n,), where a gate looks at agreement
  const double* weights;        // (n,), or null: each row weighs 1
  std::size_t row_bytes, value_bytes;
};

// What is summed of neighbours, (queries, k) each. An entry is written for each neighbour, but not
// for padding.
struct SummedRows {
  const char** rows;
  const char** values;    // null but for sparse rows
  float* rest;            // the same
  std::int64_t* classes;  // null where no gate looks at agreement
  double* weights;        // the rows' own at first
};

struct LocateArgs {
  const std::int64_t* positions;
  std::size_t count;
  unsigned segments;
  LocatedSegment segment[kLocatedSegments];
  SummedRows out;
};

// A thread finds one neighbour, if it lies in one of these segments.
RESMEM_KERNEL void locate_rows(const LocateArgs args) {
  const std::size_t i = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (i >= args.count) return;
  const std::int64_t position = args.positions[i];
  RESMEM_ROLLED
  for (unsigned s = 0; s < args.segments; ++s) {
    const LocatedSegment& segment = args.segment[s];
    if (position < segment.first || position - segment.first >= segment.n) continue;
    const auto row = static_cast<std::size_t>(position - segment.first);
    args.out.rows[i] = segment.rows + row * segment.row_bytes;
    if (args.out.values != nullptr) {
      args.out.values[i] = segment.values + row * segment.value_bytes;
      args.out.rest[i] = segment.rest[row];
    }
    if (args.out.classes != nullptr) args.out.classes[i] = segment.classes[row];
    args.out.weights[i] = segment.weights != nullptr ? segment.weights[row] : 1;
  }
}

// What is known of each query once its neighbours are weighed.
struct Weighed {
  std::uint32_t* counts;   // of neighbours, without padding
  double* totals;          // of their weights; 1 without neighbours
  double* nearest;         // the least distance; +inf without neighbours
  std::uint32_t* refused;  // not 0: something that it came with makes no sense
};

struct WeighArgs {
  const double* values;  // (queries, k) of the metric
  const std::int64_t* positions;
  std::size_t queries, k;
  std::int64_t rows;  // positions are below
  double sigma;
  bool products;    // distances are the values negated, and may be negative
  double* weights;  // the rows' own, which become those of the neighbours
  Weighed out;
};

// Returns how many lanes, from the first one on, said yes.
RESMEM_DEVICE unsigned lanes_before_no(std::uint32_t votes) {
  return simt::bit_count((~votes & (votes + 1)) - 1);
}

RESMEM_DEVICE double distance_of(const WeighArgs& args, std::size_t i) {
  return args.products ? 0.0 - args.values[i] : args.values[i];
}

// Tells whether neighbour j, the i-th of all, is one that a search may give.
RESMEM_DEVICE bool makes_sense(const WeighArgs& args, std::size_t i, std::size_t j) {
  const double distance = distance_of(args, i);
  if (args.positions[i] >= args.rows || !(distance - distance == 0)) return false;
  if (!args.products && distance < 0) return false;
  return j == 0 || distance >= distance_of(args, i - 1);
}

// A warp weighs the neighbours of a query, 32 at a time. Its lanes all add up the same sum, one
// weight after the other.
RESMEM_KERNEL void RESMEM_BOUNDS(kWeighThreads, 8) weigh_neighbours(const WeighArgs args) {
  const std::size_t query =
      (std::size_t{simt::block_x()} * simt::threads() + simt::thread()) / simt::kWarp;
  if (query >= args.queries) return;
  const std::size_t first = query * args.k;
  const double nearest = args.k > 0 ? distance_of(args, first) : 0;
  double total = 0;
  std::size_t count = 0;
  bool refused = false;
  for (std::size_t start = 0; start < args.k; start += simt::kWarp) {
    const std::size_t j = start + simt::lane(), i = first + j;
    const bool there = j < args.k && args.positions[i] >= 0;
    const std::uint32_t votes = simt::vote(there);
    const unsigned here = count == start ? lanes_before_no(votes) : 0;
    const bool counts = simt::lane() < here, sense = counts && makes_sense(args, i, j);
    refused |= simt::vote(there != sense) != 0;
    double weight = 0;
    if (sense) {
      weight = exp_of((nearest - distance_of(args, i)) / args.sigma) * args.weights[i];
      args.weights[i] = weight;
    }
    for (unsigned from = 0; from < here; ++from) total += simt::shuffle(weight, from);
    count += here;
  }
  if (simt::lane() != 0) return;
  if (refused) {
    args.out.refused[query] = 1;
    count = 0;  // none of them is looked at, as they may be nowhere
  }
  args.out.counts[query] = static_cast<std::uint32_t>(count);
  args.out.totals[query] = count > 0 ? total : 1;
  args.out.nearest[query] = count > 0 ? nearest : __builtin_inf();
}

// Refuses queries that are not finite. A warp looks at one.
template <class Q>
RESMEM_KERNEL void refuse_queries(const Q* queries, std::size_t count, std::size_t d,
                                  std::uint32_t* refused) {
  const std::size_t query =
      (std::size_t{simt::block_x()} * simt::threads() + simt::thread()) / simt::kWarp;
  if (query >= count) return;
  bool bad = false;
  for (std::size_t i = simt::lane(); i < d; i += simt::kWarp) {
    const Q number = queries[query * d + i];
    bad |= !(number - number == 0);
  }
  if (simt::vote(bad) != 0 && simt::lane() == 0) refused[query] = 1;
}

}  // namespace device
}  // namespace resmem
