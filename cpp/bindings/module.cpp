#include "bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled core of resmem. Private: use the functions of `resmem` itself.";
  resmem::register_execution(module);  // other functions' defaults are of its type
  resmem::register_system(module);
  resmem::register_arrays(module);
  resmem::register_dlpack(module);
  resmem::register_indexes(module);
  resmem::register_search(module);
  resmem::register_rows(module);
  resmem::register_residuals(module);
  resmem::register_aggregate(module);
  resmem::register_correct(module);
  resmem::register_sweep(module);
  resmem::register_testing(module);
}
