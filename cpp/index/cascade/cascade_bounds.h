// Tests see by this what every stage of a cascade promises.
#pragma once

#include "cascade.h"

namespace resmem {

// Bounds of the distances between exact points, (q, n) each: lower ends by the cluster and by the
// coded projection, and both ends by the coded row (if there are any) and by the canonical key.
struct CascadeBounds {
  double *by_cluster, *by_projection, *low, *high, *key_low, *key_high;
};
void cascade_bounds(const Cascade& cascade, const IndexScope& scope, const CascadeBounds& bounds);

}  // namespace resmem
