#include "../index/tree/tree.h"

#include "index_bindings.h"

namespace resmem {

template <>
struct PythonElement<Split> {
  using type = std::int32_t;
};

template <>
struct IndexArrays<Tree> {
  static constexpr const char* name = "a tree";

  template <class Of, class Visit>
  static void for_each_array(Of& tree, const Visit& visit) {
    visit("rows", tree.rows);
    visit("splits", tree.splits);
    visit("box", tree.box);
  }

  template <class Of, class Visit>
  static void for_each_number(Of& tree, const Visit& visit) {
    visit("n", tree.n);
    visit("d", tree.d);
    visit("height", tree.height);
  }
};

namespace {

std::unique_ptr<Tree> build_python(const BoundSegment& segment, std::size_t d, std::size_t leaf,
                                   const ExecutionChoice& choice) {
  require(segment.d == d, "segment keys must have d columns");
  const Segment& rows = segment.segment;
  return without_gil(choice, [&](const Execution& execution) {
    return std::make_unique<Tree>(build_tree(rows, d, leaf, execution));
  });
}

}  // namespace

void register_tree(py::module_& module) {
  using namespace py::literals;
  index_class<Tree>(module, "Tree", "What makes exact search of some rows of few dimensions fast.")
      .def(py::init(&build_python), "segment"_a, "d"_a, "leaf"_a = 0, execution_argument())
      .def_property_readonly("leaves", &Tree::leaves);
}

}  // namespace resmem
