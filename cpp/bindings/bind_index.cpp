#include "../index/row_index.h"

#include "search_request.h"

namespace resmem {

void register_indexes(py::module_& module) {
  using namespace py::literals;
  py::class_<RowIndex>(module, "RowIndex", "What makes exact search of some rows fast.")
      .def("__len__", &RowIndex::covers)
      .def_property_readonly("dimensions", &RowIndex::dimensions)
      .def_property_readonly("nbytes", &RowIndex::bytes)
      .def_property_readonly("kind", [](const RowIndex& index) { return index.kind().name; })
      .def(
          "serves_metric",
          [](const RowIndex& index, const std::string& metric) {
            return index.serves_metric(metric_named(metric));
          },
          "metric"_a, "Whether its bounds hold for this metric.")
      .def("digest", &RowIndex::digest, "A hash of everything in it.");
  // Each kind of index has a file of its own.
  register_cascade(module);
  register_tree(module);
}

}  // namespace resmem
