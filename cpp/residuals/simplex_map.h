// Maps from corrected outputs to probabilities, class by class (CONTRACT.md, "Probabilities"), for
// the CPU and for devices.
#pragma once

#include <cstddef>

#include "../base/host_device.h"

namespace resmem {

// The map is p_c = max(v_c - shift, f_c), divided by its sum, over the classes that are possible.
struct SimplexMap {
  enum class Kind {
    clip,     // f_c = floor
    project,  // f_c = floor, shifted so that the sum is 1: the nearest point
    keep      // f_c = floor times the base output
  };
  Kind kind = Kind::clip;
  double floor = 0;

  // Returns the map with a floor that fits: all floors of `clip` or `project` together are bounded.
  RESMEM_HOST_DEVICE SimplexMap fitted(std::size_t columns) const {
    if (kind == Kind::keep) return *this;
    const auto count = static_cast<double>(columns);
    const double share = 100 / count < 1 ? 100 / count : 1;
    const double fits = floor * share, most = 0.5 / count;
    return {kind, most < fits ? most : fits};
  }
  // Returns f_c of a class to which the base model gives `base`. Only `keep` looks at how much.
  RESMEM_HOST_DEVICE double floor_of(double base) const {
    constexpr double kLeast = 1e-9;  // CONTRACT.md
    if (!(base > 0)) return 0;
    if (kind != Kind::keep) return floor;
    const double share = floor * base;
    return share < kLeast ? kLeast : share;
  }
  // Returns the sum that a projection leaves to values above their floors, of which there are
  // `floored`.
  RESMEM_HOST_DEVICE double mass(std::size_t floored) const {
    return 1 - static_cast<double>(floored) * floor;
  }
};

// Tells whether a class with this corrected output may be probable. One to which the base model
// gives nothing may be if neighbours have it and the strength adds them, rather than takes them
// off.
RESMEM_HOST_DEVICE bool is_possible(double base, double value, double strength) {
  return base > 0 || (value > 0 && strength > 0);
}

}  // namespace resmem
