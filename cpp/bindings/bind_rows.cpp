#include "../rows/id_table.h"
#include "execution.h"
#include "row_segment.h"

namespace resmem {
namespace {

void mark_died(Array<std::int64_t>& died, const Array<std::int64_t>& rows, std::int64_t version) {
  require(died.ndim() == 1 && rows.ndim() == 1, "died must be (n,) and rows (m,)");
  std::int64_t* target = died.mutable_data();
  const std::int64_t *first = rows.data(), *last = first + rows.size();
  for (const std::int64_t* row = first; row != last; ++row)
    if (*row < 0 || *row >= died.size())
      throw py::index_error("row " + std::to_string(*row) + " is not one of the " +
                            std::to_string(died.size()) + " rows");
  for (const std::int64_t* row = first; row != last; ++row)
    __atomic_store_n(target + *row, version, __ATOMIC_RELAXED);
}

void extend_python(IdTable& table, const Array<std::int64_t>& ids) {
  require(ids.ndim() == 1, "ids must be (n,)");
  without_gil([&, first = ids.data(), n = extent(ids, 0)](Interrupt& interrupt) {
    table.extend_to(first, n, [&] { interrupt.poll(true); });
  });
}

Array<std::int64_t> find_python(IdTable& table, const Array<std::int64_t>& ids) {
  require(ids.ndim() == 1, "ids must be (m,)");
  Array<std::int64_t> rows(ids.size());
  std::int64_t* const found = rows.mutable_data();
  without_gil([&, first = ids.data(), m = extent(ids, 0)](Interrupt& interrupt) {
    table.find(first, m, found, [&] { interrupt.poll(true); });
  });
  return rows;
}

}  // namespace

void register_rows(py::module_& module) {
  using namespace py::literals;
  module.def("mark_died", &mark_died, py::arg("died").noconvert(), py::arg("rows").noconvert(),
             "version"_a, "Stamps rows with the version at which they were removed.");
  py::class_<BoundSegment>(module, "Segment", "Rows that lie together, as searches take them.")
      .def(py::init<const py::array&, const py::object&, std::int64_t, const py::object&, double,
                    const py::object&, const py::object&, const py::object&>(),
           "keys"_a, "ids"_a = py::none(), "first_id"_a = 0, "died"_a = py::none(),
           "largest"_a = 0.0, "index"_a = py::none(), "times"_a = py::none(),
           "groups"_a = py::none())
      .def("with_index", &BoundSegment::with_index, "index"_a,
           "The same rows, searched through another index or none.")
      .def("__len__", [](const BoundSegment& rows) { return rows.segment.n; })
      .def_readonly("keys", &BoundSegment::keys)
      .def_readonly("index", &BoundSegment::index)
      .def_property_readonly("largest",
                             [](const BoundSegment& rows) { return rows.segment.max_abs; });
  py::class_<IdTable>(module, "IdTable", "Rows of one segment by id.")
      .def(py::init<>())
      .def("extend_to", &extend_python, py::arg("ids").noconvert(),
           "Adds those rows that it lacks, given the ids of all; of equal ones the last is found.")
      .def("find", &find_python, py::arg("ids").noconvert(), "Row of each id, or -1.")
      .def("__len__", &IdTable::size)
      .def_property_readonly("nbytes", &IdTable::bytes);
}

}  // namespace resmem
