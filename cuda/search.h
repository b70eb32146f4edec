// What the search on one device and that on several devices share.
#pragma once

#include "device.h"
#include "engine.h"
#include "rank.cuh"

namespace resmem {
namespace device {

// Does what search() does where all segments are on the search's device.
void search_here(const DeviceSearch& request, const std::function<void()>& poll,
                 DeviceStats* stats);

// Returns the bytes of a query.
inline std::size_t query_bytes(const DeviceSearch& request) {
  return request.d * bytes_of(request.query_type);
}

inline ValueKind value_kind(Metric metric) {
  return metric == Metric::euclidean       ? ValueKind::root
         : metric == Metric::inner_product ? ValueKind::negated_key
                                           : ValueKind::key;
}

}  // namespace device
}  // namespace resmem
