#include "../cascade/cascade.h"

#include "search_request.h"

namespace resmem {
namespace {

std::unique_ptr<Cascade> build_python(const py::tuple& segment, std::size_t d, std::size_t depth,
                                      std::size_t clusters, bool coded_rows, std::size_t threads,
                                      const std::string& isa) {
  const Segment rows = segment_from(segment, d);
  const KernelTable& kernels = select_kernels(isa);
  const CascadeShape shape{depth, clusters, coded_rows};
  return without_gil([&](Interrupt& interrupt) {
    return std::make_unique<Cascade>(
        build_cascade(rows, d, shape, kernels, thread_count(threads), interrupt));
  });
}

}  // namespace

void register_cascade(py::module_& module) {
  using namespace py::literals;
  py::class_<Cascade>(module, "Cascade", "What makes exact search of some rows fast.")
      .def(py::init(&build_python), "segment"_a, "d"_a, "depth"_a, "clusters"_a,
           "coded_rows"_a = true, "threads"_a = 0, "isa"_a = "")
      .def("__len__", [](const Cascade& cascade) { return cascade.n; })
      .def_readonly("depth", &Cascade::depth)
      .def_readonly("clusters", &Cascade::clusters)
      .def_property_readonly("coded_rows", [](const Cascade& c) { return c.code_depth > 0; })
      .def_readonly("scale", &Cascade::scale, "Codes per unit of length.")
      .def_property_readonly(
          "axes",
          [](const Cascade& c) {
            const std::vector<std::size_t> shape{c.projection.axes, c.projection.d};
            return Array<float>(shape, c.projection.weight.data());
          })
      .def_property_readonly("nbytes", &Cascade::bytes)
      .def("digest", &Cascade::digest, "A hash of everything in it.");
}

}  // namespace resmem
