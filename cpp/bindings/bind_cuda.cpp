#include "bind_device.h"

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "Devices of CUDA. Private: use the functions of `resmem` itself.";
  resmem::register_device(module);
  resmem::register_device_search(module);
  resmem::register_device_aggregate(module);
}
