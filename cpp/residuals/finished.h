// What a mean over neighbours makes of base outputs (CONTRACT.md, "Weights, correction, prediction"
// and "Targets"), for the CPU and for devices.
#pragma once

#include <cstddef>

#include "../base/host_device.h"

namespace resmem {

// Returns the strength of a query that has so many neighbours: without any, nothing may change the
// base outputs.
RESMEM_HOST_DEVICE double strength_with(std::size_t neighbours, double strength) {
  return neighbours == 0 ? 0 : strength;
}

// Returns what a base output becomes: `by` times the mean is added, or it goes that share of the
// way to the mean.
RESMEM_HOST_DEVICE double moved(double base, double mean, double by, bool interpolate) {
  return interpolate ? (1 - by) * base + by * mean : base + by * mean;
}

}  // namespace resmem
