#include "../index/row_index.h"

#include "bindings.h"

namespace resmem {

void register_indexes(py::module_& module) {
  py::class_<RowIndex>(module, "RowIndex", "What makes exact search of some rows fast.")
      .def("__len__", &RowIndex::covers)
      .def_property_readonly("dimensions", &RowIndex::dimensions)
      .def_property_readonly("nbytes", &RowIndex::bytes)
      .def("digest", &RowIndex::digest, "A hash of everything in it.");
  // Each kind of index has a file of its own.
  register_cascade(module);
  register_tree(module);
}

}  // namespace resmem
