// Makes probabilities of corrected outputs (CONTRACT.md, "Probabilities").
#pragma once

#include <cstddef>

#include "../base/execution.h"
#include "simplex_map.h"

namespace resmem {

// Writes f_c of n classes.
void fill_floors(const SimplexMap& map, const double* base, std::size_t n, double* out);

// Returns the shift of `map`, which must be fitted. The values are padded with -inf to n, a
// multiple of kPartials. An impossible class has -inf too, and one without a floor has its value
// plus the floor. `floored` classes have a floor.
double simplex_shift(const SimplexMap& map, const double* padded, std::size_t n,
                     std::size_t floored, const KernelTable& kernels);

struct SimplexRows {
  double* values = nullptr;  // (n, columns), mapped in place
  // The outputs before the correction, (n, columns), may be null if they are not known, but not for
  // `keep`.
  const double* base = nullptr;
  double strength = 1;  // of the correction
  std::size_t n = 0, columns = 0;
};

void map_to_simplex(const SimplexMap& map, const SimplexRows& rows, const Execution& execution);

}  // namespace resmem
