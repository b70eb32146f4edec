// From corrected outputs to probabilities (CONTRACT.md, "Probabilities").
#pragma once

#include <cstddef>

#include "../base/execution.h"

namespace resmem {

// p_c = max(v_c - shift, f_c), divided by its sum, over the classes that are possible.
struct SimplexMap {
  enum class Kind {
    clip,     // f_c = floor
    project,  // f_c = floor, shifted so that the sum is 1: the nearest point
    keep      // f_c = floor times the base output
  };
  Kind kind = Kind::clip;
  double floor = 0;

  // The floors of `clip` and `project` have a bound together.
  SimplexMap fitted(std::size_t columns) const;
  // f_c of n classes that the base model gives something; only `keep` looks at how much.
  void floors(const double* base, std::size_t n, double* out) const;
};

// The shift of `map`, fitted, for values padded with -inf to n, a multiple of kPartials; -inf too
// where a class is impossible, and more by the floor where it has none. `floored` classes have one.
double simplex_shift(const SimplexMap& map, const double* padded, std::size_t n,
                     std::size_t floored, const KernelTable& kernels);

struct SimplexRows {
  double* values = nullptr;      // (n, columns), mapped in place
  const double* base = nullptr;  // like it, what was corrected; if not known, `keep` cannot be
  double strength = 1;           // by which it was corrected
  std::size_t n = 0, columns = 0;
};

void map_to_simplex(const SimplexMap& map, const SimplexRows& rows, const Execution& execution);

}  // namespace resmem
