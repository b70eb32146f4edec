// Which kernels this machine can run, and which one a call uses.
#pragma once

#include <string>
#include <vector>

#include "../kernels/table.h"

namespace resmem {

// Compiled in and executable here, slowest first.
const std::vector<const KernelTable*>& available_kernels();

// The named kernels; empty: RESMEM_ISA, else the fastest that is not emulated.
// Throws std::invalid_argument naming what there is.
const KernelTable& select_kernels(const std::string& name);

}  // namespace resmem
