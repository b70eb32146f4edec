// What every module of a device has, be it one of CUDA or played on the CPU.
#pragma once

#include <pybind11/pybind11.h>

namespace resmem {

// Adds DeviceError and OutOfDeviceMemory, and functions that tell which devices there are.
void register_device(pybind11::module_& module);

// Adds rows that live on a device, and the search for the nearest of them.
void register_device_search(pybind11::module_& module);

// Adds residuals, weights and gates that live on a device, and what becomes of neighbours there.
void register_device_aggregate(pybind11::module_& module);

}  // namespace resmem
