// Bounds are made of these: the units of rounding, what n roundings can change, and outward
// rounding.
#pragma once

#include <cmath>
#include <cstddef>

#include "host_device.h"

namespace resmem {

inline constexpr double kU = 0x1p-24, kV = 0x1p-53, kEta = 0x1p-149;

// Returns how much n roundings can change a sum of terms, relative to the sum of their sizes
// (Higham).
RESMEM_HOST_DEVICE double roundings(double n, double unit) { return n * unit / (1 - n * unit); }

// Returns the relative rounding of a canonical squared distance (theta in
// flat/bounds/filter_bounds.h): there are three roundings of a squared difference, at most
// ceil(d/8) in its partial sum, and three in the tree of partial sums.
RESMEM_HOST_DEVICE double canonical_rounding(std::size_t d) {
  return roundings(std::ceil(static_cast<double>(d) / 8) + 6, kV);
}

RESMEM_HOST_DEVICE float round_down(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) > value ? std::nextafter(near, -HUGE_VALF) : near;
}

RESMEM_HOST_DEVICE float round_up(double value) { return -round_down(-value); }

}  // namespace resmem
