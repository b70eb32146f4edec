// These kernels sum what neighbours' rows hold, each column in the order of the neighbours, and
// move base outputs by the means (cpp/CONTRACT.md, "Weights, correction, prediction").
#pragma once

#include "../cpp/residuals/finished.h"
#include "weigh.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kSumThreads = 256;

// The columns that are wanted of each query.
struct Wanted {
  const std::int64_t* select;  // (queries, width), or (width,) for all alike; null: all columns
  bool shared;
  std::size_t width, columns;

  // Returns a column that may not be there.
  RESMEM_DEVICE std::size_t column(std::size_t query, std::size_t i) const {
    if (select == nullptr) return i;
    return static_cast<std::size_t>(select[shared ? i : query * width + i]);
  }
};

struct SumArgs {
  SummedRows rows;
  std::size_t queries, k;
  Weighed weighed;
  Wanted wanted;
  const double* base;  // (queries, columns), or null: the means alone are wanted
  bool interpolate;
  double strength;
  const double* strengths;  // (queries,) in the place of `strength`, or null
  double* values;           // (queries, width); may be `base`
  unsigned tile;            // columns that a block works on, of sum_rows(): a power of two
  std::size_t entries;      // of a sparse row
  unsigned together;        // lanes that add entries of a row at once: 1 if one may come twice
  double* sums;             // (queries, columns), of sparse rows and labels
};

// Puts the sum of a column in place, NaN for a query that is refused.
RESMEM_DEVICE void put_sum(const SumArgs& args, std::size_t query, std::size_t i,
                           std::size_t column, double sum) {
  double& value = args.values[query * args.wanted.width + i];
  if (args.weighed.refused[query] != 0) {
    value = __builtin_nan("");
    return;
  }
  const double mean = sum / args.weighed.totals[query];
  if (args.base == nullptr) {
    value = mean;
    return;
  }
  const double strength = args.strengths != nullptr ? args.strengths[query] : args.strength;
  value = moved(args.base[query * args.wanted.columns + column], mean,
                strength_with(args.weighed.counts[query], strength), args.interpolate);
}

// Returns what a row adds to the sum of a column.
template <class T>
RESMEM_DEVICE double term_of(const char* row, double weight, std::size_t column) {
  return weight * wide(reinterpret_cast<const T*>(row)[column]);
}

// Threads that follow each other have columns that do, of one query; a block has several queries
// where there are few columns. Several rows are on their way at once.
template <class T>
RESMEM_KERNEL void RESMEM_BOUNDS(kSumThreads, 4) sum_rows(const SumArgs args) {
  constexpr unsigned kAhead = 8;
  const std::size_t tiles = (args.wanted.width + args.tile - 1) / args.tile;
  const std::size_t query =
      simt::block_x() / tiles * (simt::threads() / args.tile) + simt::thread() / args.tile;
  const std::size_t i = simt::block_x() % tiles * args.tile + simt::thread() % args.tile;
  if (query >= args.queries || i >= args.wanted.width) return;
  const std::size_t column = args.wanted.column(query, i);
  if (column >= args.wanted.columns) {
    args.values[query * args.wanted.width + i] = __builtin_nan("");
    return;
  }
  const char* const* rows = args.rows.rows + query * args.k;
  const double* weights = args.rows.weights + query * args.k;
  const unsigned count = args.weighed.counts[query];
  double sum = 0;
  unsigned j = 0;
  for (; j + kAhead <= count; j += kAhead) {
    double term[kAhead];
    RESMEM_UNROLL
    for (unsigned a = 0; a < kAhead; ++a) term[a] = term_of<T>(rows[j + a], weights[j + a], column);
    RESMEM_UNROLL
    for (unsigned a = 0; a < kAhead; ++a) sum += term[a];
  }
  for (; j < count; ++j) sum += term_of<T>(rows[j], weights[j], column);
  put_sum(args, query, i, column, sum);
}

// Returns the sum of what rows have in columns of which they keep no value. The lanes of a warp all
// add up the same, one term after the other.
RESMEM_DEVICE double sum_of_rests(const SumArgs& args, std::size_t first, unsigned count) {
  double sum = 0;
  for (unsigned start = 0; start < count; start += simt::kWarp) {
    const unsigned j = start + simt::lane(), here = count - start;
    const double term =
        j < count ? args.rows.weights[first + j] * -static_cast<double>(args.rows.rest[first + j])
                  : 0;
    for (unsigned from = 0; from < simt::kWarp && from < here; ++from)
      sum += simt::shuffle(term, from);
  }
  return sum;
}

// Rows of a few entries, and what the other columns have.
template <class T>
struct SparseEntries {
  // Returns the sum of every column of which no neighbour keeps a value.
  static RESMEM_DEVICE double rest(const SumArgs& args, std::size_t first, unsigned count) {
    return sum_of_rests(args, first, count);
  }
  // Adds the entries of each row to the sums of their columns, one row after the other.
  static RESMEM_DEVICE void add(const SumArgs& args, std::size_t first, unsigned count,
                                double* sums) {
    for (unsigned j = 0; j < count; ++j) {
      const auto* index = reinterpret_cast<const std::int32_t*>(args.rows.rows[first + j]);
      const auto* value = reinterpret_cast<const T*>(args.rows.values[first + j]);
      const double weight = args.rows.weights[first + j];
      for (std::size_t e = simt::lane(); e < args.entries; e += args.together)
        if (simt::lane() < args.together) sums[index[e]] += weight * wide(value[e]);
      simt::sync_warp();  // the next row may have the same columns
    }
  }
};

// Labels, each of which stands for its one-hot row: all but one value add nothing.
struct OneHotEntries {
  static RESMEM_DEVICE double rest(const SumArgs&, std::size_t, unsigned) { return 0; }
  // A lane takes a label, and adds the weights of all that are equal among 32, in order. The first
  // of these lanes puts the sum in place.
  static RESMEM_DEVICE void add(const SumArgs& args, std::size_t first, unsigned count,
                                double* sums) {
    for (unsigned start = 0; start < count; start += simt::kWarp) {
      const unsigned j = start + simt::lane(), here = count - start;
      const std::int64_t label =
          j < count ? *reinterpret_cast<const std::int64_t*>(args.rows.rows[first + j]) : -1;
      const double weight = j < count ? args.rows.weights[first + j] : 0;
      double sum = label >= 0 ? sums[label] : 0;
      bool leads = label >= 0;
      for (unsigned from = 0; from < simt::kWarp && from < here; ++from) {
        const bool same = simt::shuffle(label, from) == label;
        const double its_weight = simt::shuffle(weight, from);
        if (same) sum += its_weight;
        if (same && from < simt::lane()) leads = false;
      }
      simt::sync_warp();  // all have read their sums
      if (leads) sums[label] = sum;
      simt::sync_warp();  // the next labels may be the same
    }
  }
};

// A block works on one query, and its first warp adds the entries.
template <class Entries>
RESMEM_KERNEL void RESMEM_BOUNDS(kRowThreads, 4) sum_entries(const SumArgs args) {
  auto& rest = *simt::shared_memory<double>();
  const std::size_t query = simt::block_x(), first = query * args.k, columns = args.wanted.columns;
  const unsigned count = args.weighed.counts[query];
  double* sums = args.sums + query * columns;
  const bool adds = simt::thread() < simt::kWarp;
  if (adds) {
    const double sum = Entries::rest(args, first, count);
    if (simt::thread() == 0) rest = sum;
  }
  simt::sync_block();
  for (std::size_t c = simt::thread(); c < columns; c += simt::threads()) sums[c] = rest;
  simt::sync_block();
  if (adds) Entries::add(args, first, count, sums);
  simt::sync_block();
  for (std::size_t i = simt::thread(); i < args.wanted.width; i += simt::threads()) {
    const std::size_t column = args.wanted.column(query, i);
    if (column < columns)
      put_sum(args, query, i, column, sums[column]);
    else
      args.values[query * args.wanted.width + i] = __builtin_nan("");
  }
}

}  // namespace device
}  // namespace resmem
