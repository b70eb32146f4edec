// From corrected outputs to probabilities (CONTRACT.md, "Probabilities").
#pragma once

#include <cstddef>

#include "../kernels/kernel_table.h"
#include "threads.h"

namespace resmem {

// p_c = max(v_c - shift, f_c), divided by its sum.
struct SimplexMap {
  enum class Kind {
    clip,     // f_c = floor
    project,  // f_c = floor, shifted so that the sum is 1: the nearest point
    keep      // f_c = floor times the base output
  };
  Kind kind = Kind::clip;
  double floor = 0;

  // A projection's floor leaves room for it in all columns.
  SimplexMap fitted(std::size_t columns) const;
  // f_c of a base output.
  double at(double base) const;
};

// The shift of `map`, fitted, for `columns` values, padded with -inf to a multiple of kPartials.
double simplex_shift(const SimplexMap& map, const double* padded, std::size_t columns,
                     const KernelTable& kernels);

// values (n, columns), in place; base like it for `keep`, else not read.
void simplex_rows(const SimplexMap& map, double* values, const double* base, std::size_t n,
                  std::size_t columns, const KernelTable& kernels, std::size_t threads,
                  Interrupt& interrupt);

}  // namespace resmem
