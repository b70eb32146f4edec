// Which kernels this machine can run, and which one a call uses.
#pragma once

#include <string>
#include <vector>

#include "../kernels/table.h"

namespace resmem {

// Returns the kernels that are compiled in and can run here, the slowest first.
const std::vector<const KernelTable*>& available_kernels();

// Returns the kernels of that name. An empty name stands for the environment's RESMEM_ISA, or else
// for the fastest that are not emulated. Throws std::invalid_argument, which names those there are.
const KernelTable& select_kernels(const std::string& name);

}  // namespace resmem
