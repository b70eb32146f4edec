// Reads which map to the simplex a case asks for.
#pragma once

#include <cstdint>

#include "../residuals/simplex.h"
#include "case_reader.h"

namespace resmem {

inline SimplexMap simplex_map(std::int64_t kind, double floor) {
  require(kind >= 0 && kind <= 2, "no such map");
  return {static_cast<SimplexMap::Kind>(kind), floor};
}

}  // namespace resmem
