#include "execution.h"

namespace resmem {

void register_execution(py::module_& module) {
  using namespace py::literals;
  py::class_<ExecutionChoice>(module, "Execution",
                              "How a call is carried out: never what it gives.")
      .def(py::init<std::size_t, std::string>(), "threads"_a = 0, "isa"_a = "")
      .def_readonly("threads", &ExecutionChoice::threads, "0: as many as the process may use.")
      .def_readonly("isa", &ExecutionChoice::isa, "Empty: the fastest that this machine has.");
}

}  // namespace resmem
