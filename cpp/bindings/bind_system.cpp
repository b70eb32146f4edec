#include "../base/cpu.h"
#include "../base/fp_guard.h"
#include "../base/platform.h"
#include "../base/threads.h"
#include "bindings.h"

namespace resmem {

void register_system(py::module_& module) {
  using namespace py::literals;
  module.attr("__version__") = RESMEM_VERSION;
  module.def("default_threads", &default_threads, "Threads a call uses unless told otherwise.");
  module.def(
      "enter_float_state",
      [] {
        const std::uint64_t saved = float_state();
        set_float_state(kContractState);
        return saved;
      },
      "Puts the calling thread into the contract's floating-point state; returns the one before.");
  module.def("leave_float_state", &set_float_state, "saved"_a);
  module.def("selected_isa", [] { return std::string(select_kernels("").name); });
  module.def(
      "available_isas",
      [] {
        py::dict found;
        for (const KernelTable* table : available_kernels()) found[table->name] = table->emulated;
        return found;
      },
      "Kernels this machine can run; the value tells whether they are emulated.");
  module.def("build_info", [] {
    py::dict info;
#if defined(__clang__)
    info["compiler"] = "clang " __clang_version__;
#else
    info["compiler"] = "gcc " __VERSION__;
#endif
    info["pybind11"] =
        std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR);
    return info;
  });
}

}  // namespace resmem
