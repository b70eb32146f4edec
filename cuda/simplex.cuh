// These kernels make probabilities of corrected outputs (cpp/CONTRACT.md, "Probabilities"), and
// pick what is wanted of them. A block works on the row of one query.
#pragma once

#include "../cpp/residuals/simplex_map.h"
#include "sums.cuh"

namespace resmem {
namespace device {

struct MapArgs {
  SimplexMap map;  // fitted
  double strength;
  std::size_t columns;
  const double* base;  // (queries, columns), or null: there is none
  double* values;      // (queries, columns), mapped in place
  const std::uint32_t* refused;
};

// The outputs of one query.
struct MappedRow {
  const MapArgs& args;
  const double* base;
  double* values;

  RESMEM_DEVICE bool given(std::size_t c) const { return base == nullptr || base[c] > 0; }
  RESMEM_DEVICE double floor(std::size_t c) const {
    return base == nullptr ? args.map.floor : args.map.floor_of(base[c]);
  }
  // Returns an output, -inf of an impossible class.
  RESMEM_DEVICE double possible(std::size_t c) const {
    const bool is = base == nullptr || is_possible(base[c], values[c], args.strength);
    return is ? values[c] : -__builtin_inf();
  }
  // Returns what is projected: a class without a floor has its output plus the floor.
  RESMEM_DEVICE double projected(std::size_t c) const {
    return given(c) ? possible(c) : possible(c) + args.map.floor;
  }
};

// Tells whether nothing was corrected.
RESMEM_DEVICE bool is_unmoved(const MappedRow& row) {
  bool moved = row.base == nullptr;
  for (std::size_t c = simt::thread(); row.base != nullptr && c < row.args.columns;
       c += simt::threads())
    moved |= row.values[c] != row.base[c];
  return !simt::sync_block_any(moved);
}

// Returns the shift of a projection (Michelot 1986), as SumKernels::projection_shift does.
RESMEM_DEVICE double projection_shift(const MappedRow& row, double mass, RowShared& shared) {
  const std::size_t n = row.args.columns;
  double shift = -__builtin_inf(), before = __builtin_inf();
  while (true) {
    const double kept = block_count(
        n, [&](std::size_t c) { return row.projected(c) > shift; }, shared);
    if (!(kept < before) || kept == 0) return shift;
    const double total = canonical_total(
        n,
        [&](std::size_t c) {
          const double value = row.projected(c);
          return value > shift ? value : 0.0;
        },
        shared);
    shift = (total - mass) / kept;
    before = kept;
  }
}

RESMEM_KERNEL void RESMEM_BOUNDS(kRowThreads, 4) map_rows(const MapArgs args) {
  auto& shared = *simt::shared_memory<RowShared>();
  const std::size_t query = simt::block_x(), n = args.columns;
  if (args.refused[query] != 0) return;  // its values are NaN, and stay so
  double* values = args.values + query * n;
  const double* base = args.base == nullptr ? nullptr : args.base + query * n;
  const MappedRow row = {args, base, values};
  if (is_unmoved(row)) {
    for (std::size_t c = simt::thread(); c < n; c += simt::threads()) values[c] = base[c];
    return;
  }
  double shift = 0;
  if (args.map.kind == SimplexMap::Kind::project) {
    const std::size_t floored = block_count(
        n, [&](std::size_t c) { return row.given(c); }, shared);
    shift = projection_shift(row, args.map.mass(floored), shared) - args.map.floor;
  }
  simt::sync_block();
  for (std::size_t c = simt::thread(); c < n; c += simt::threads()) {
    const double value = row.possible(c) - shift, floor = row.floor(c);
    values[c] = value > floor ? value : floor;
  }
  const double total = canonical_total(
      n, [values](std::size_t c) { return values[c]; }, shared);
  for (std::size_t c = simt::thread(); c < n; c += simt::threads()) values[c] /= total;
}

struct PickArgs {
  const double* values;  // (queries, columns)
  std::size_t queries;
  Wanted wanted;
  double* out;  // (queries, width)
};

// A thread picks one number, NaN for a column that is not there.
RESMEM_KERNEL void pick_columns(const PickArgs args) {
  const std::size_t at = std::size_t{simt::block_x()} * simt::threads() + simt::thread();
  if (at >= args.queries * args.wanted.width) return;
  const std::size_t query = at / args.wanted.width;
  const std::size_t column = args.wanted.column(query, at % args.wanted.width);
  args.out[at] = column < args.wanted.columns ? args.values[query * args.wanted.columns + column]
                                              : __builtin_nan("");
}

// A column and its value, as the search for the first largest one has them.
struct Largest {
  double value;
  std::uint64_t column;

  // Tells whether this one comes before the other: NaN comes before all numbers, as in NumPy.
  RESMEM_DEVICE bool before(const Largest& other) const {
    const bool nan = value != value, its_nan = other.value != other.value;
    if (nan != its_nan) return nan;
    const bool equal = nan || value == other.value;
    return equal ? column < other.column : value > other.value;
  }
};

struct ArgmaxArgs {
  const double* values;  // (queries, columns)
  std::size_t columns;
  const std::uint32_t* refused;
  const std::int64_t* labels;  // (columns,), or null: the numbers of columns are wanted
  std::int64_t* out;           // (queries,); -1 for a query that is refused
};

struct ArgmaxShared {
  Largest of_warp[kRowThreads / simt::kWarp];
};

RESMEM_KERNEL void RESMEM_BOUNDS(kRowThreads, 4) find_largest(const ArgmaxArgs args) {
  auto& shared = *simt::shared_memory<ArgmaxShared>();
  const std::size_t query = simt::block_x();
  const double* values = args.values + query * args.columns;
  Largest best = {-__builtin_inf(), args.columns};
  for (std::size_t c = simt::thread(); c < args.columns; c += simt::threads()) {
    const Largest here = {values[c], c};
    if (here.before(best)) best = here;
  }
  for (unsigned bit = simt::kWarp / 2; bit > 0; bit /= 2) {
    const Largest other = {simt::shuffle_xor(best.value, bit), simt::shuffle_xor(best.column, bit)};
    if (other.before(best)) best = other;
  }
  if (simt::lane() == 0) shared.of_warp[simt::thread() / simt::kWarp] = best;
  simt::sync_block();
  if (simt::thread() != 0) return;
  for (unsigned w = 1; w < simt::threads() / simt::kWarp; ++w)
    if (shared.of_warp[w].before(best)) best = shared.of_warp[w];
  const auto column = static_cast<std::int64_t>(best.column);
  args.out[query] = args.refused[query] != 0 ? -1
                    : args.labels != nullptr ? args.labels[column]
                                             : column;
}

}  // namespace device
}  // namespace resmem
