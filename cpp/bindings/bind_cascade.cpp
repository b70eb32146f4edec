#include "../index/cascade/cascade.h"

#include "index_bindings.h"

namespace resmem {

template <>
struct PythonElement<Chunk> {
  using type = std::int32_t;
};
template <>
struct PythonElement<CodedRow> {
  using type = float;
};

template <>
struct IndexArrays<Cascade> {
  static constexpr const char* name = "a cascade";

  template <class Of, class Visit>
  static void for_each_array(Of& cascade, const Visit& visit) {
    visit("offset", cascade.projection.offset);
    visit("weight", cascade.projection.weight);
    visit("bias", cascade.projection.bias);
    visit("origin", cascade.projection.origin);
    visit("centres", cascade.centres);
    visit("chunks", cascade.chunks);
    visit("steps", cascade.steps);
    visit("rows", cascade.rows);
    visit("panels", cascade.panels);
    visit("init", cascade.init);
    visit("codes", cascade.codes);
    visit("coded", cascade.coded);
  }

  template <class Of, class Visit>
  static void for_each_number(Of& cascade, const Visit& visit) {
    visit("n", cascade.n);
    visit("depth", cascade.depth);
    visit("code_depth", cascade.code_depth);
    visit("clusters", cascade.clusters);
    visit("metric", cascade.points.metric);
    visit("d", cascade.points.d);
    visit("longest", cascade.points.longest);
    visit("point_d", cascade.projection.d);
    visit("axes", cascade.projection.axes);
    visit("has_tail", cascade.projection.has_tail);
    visit("tail_centre", cascade.projection.tail_centre);
    visit("departure", cascade.projection.departure);
    visit("offset_norm", cascade.projection.offset_norm);
    visit("scale", cascade.scale);
    visit("code_sum", cascade.code_sum);
    visit("largest_square", cascade.largest_square);
  }
};

namespace {

std::unique_ptr<Cascade> build_python(const BoundSegment& segment, std::size_t d, std::size_t depth,
                                      std::size_t clusters, bool coded_rows,
                                      const std::string& metric, const ExecutionChoice& choice) {
  require(segment.d == d, "segment keys must have d columns");
  const Segment& rows = segment.segment;
  const CascadeShape shape{metric_named(metric), depth, clusters, coded_rows};
  return without_gil(choice, [&](const Execution& execution) {
    return std::make_unique<Cascade>(build_cascade(rows, d, shape, execution));
  });
}

}  // namespace

void register_cascade(py::module_& module) {
  using namespace py::literals;
  index_class<Cascade>(module, "Cascade", "What makes exact search of some rows fast.")
      .def(py::init(&build_python), "segment"_a, "d"_a, "depth"_a, "clusters"_a,
           "coded_rows"_a = true, "metric"_a = "euclidean", execution_argument())
      .def_readonly("depth", &Cascade::depth)
      .def_readonly("clusters", &Cascade::clusters)
      .def_property_readonly("coded_rows", [](const Cascade& c) { return c.code_depth > 0; })
      .def_readonly("scale", &Cascade::scale, "Codes per unit of length.")
      .def_property_readonly(
          "longest", [](const Cascade& c) { return c.points.longest; },
          "No row is longer (of inner products; else 0).")
      .def_property_readonly("axes", [](const Cascade& c) {
        const std::vector<std::size_t> shape{c.projection.axes, c.projection.d};
        return Array<float>(shape, c.projection.weight.data());
      });
}

}  // namespace resmem
