// Holds the kernels of a table against canonical arithmetic over lanes of plain C++.
#pragma once

#include <cstddef>
#include <string>

#include "../kernels/table.h"

namespace resmem {

struct LaneResults {
  std::size_t passed = 0, failed = 0;
  std::string first;  // names the first failure
};

// Compares bits on random and special inputs.
LaneResults check_canonical_lanes(const KernelTable& kernels);

}  // namespace resmem
