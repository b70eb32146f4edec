// From corrected outputs to probabilities (CONTRACT.md, "Probabilities").
#pragma once

#include <cstddef>

#include "../kernels/kernel_table.h"
#include "threads.h"

namespace resmem {

// p = max(v - shift, floor), divided by its sum.
struct SimplexMap {
  bool project = false;  // shift so that the sum is 1: the nearest point; else shift by nothing
  double floor = 0;      // no probability is smaller, before the division

  // A projection's floor leaves room for it in all columns.
  SimplexMap fitted(std::size_t columns) const;
};

// The shift of `map`, fitted, for `columns` values, padded with -inf to a multiple of kPartials.
double simplex_shift(const SimplexMap& map, const double* padded, std::size_t columns,
                     const KernelTable& kernels);

// values (n, columns), in place.
void simplex_rows(const SimplexMap& map, double* values, std::size_t n, std::size_t columns,
                  const KernelTable& kernels, std::size_t threads, Interrupt& interrupt);

}  // namespace resmem
