// How a call is carried out. Results never depend on it.
#pragma once

#include <cstddef>

#include "../kernels/table.h"
#include "threads.h"

namespace resmem {

struct Execution {
  const KernelTable& kernels;
  std::size_t threads;   // at most so many, the calling one included
  Interrupt& interrupt;  // asks the caller whether to stop
};

}  // namespace resmem
