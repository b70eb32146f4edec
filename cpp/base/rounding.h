// What bounds are made of: the units of rounding, how much n roundings can do, outward rounding.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

namespace resmem {

inline constexpr double kU = 0x1p-24, kV = 0x1p-53, kEta = 0x1p-149;

// Relative change of a sum of terms by n roundings (Higham).
inline double roundings(double n, double unit) { return n * unit / (1 - n * unit); }

// Of a canonical squared distance: three on a squared difference, at most ceil(d/8) in its partial
// sum, three in the tree (flat/bounds/filter_bounds.h, theta).
inline double canonical_rounding(std::size_t d) {
  return roundings(std::ceil(static_cast<double>(d) / 8) + 6, kV);
}

inline float round_down(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) > value
             ? std::nextafter(near, -std::numeric_limits<float>::infinity())
             : near;
}

inline float round_up(double value) { return -round_down(-value); }

}  // namespace resmem
