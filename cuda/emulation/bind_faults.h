#pragma once

#include <pybind11/pybind11.h>

namespace resmem {

// Adds what tests do to the played devices, and what they ask of the driver directly.
void register_faults(pybind11::module_& module);

}  // namespace resmem
