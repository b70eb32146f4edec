// Shows the tests what they need to see from inside. Nothing in the package calls these functions.
#include "../engine/search.h"
#include "../index/cascade/cascade_bounds.h"
#include "../index/tree/tree_bounds.h"
#include "execution.h"
#include "search_request.h"

namespace resmem {
namespace {

// Puts the calling thread into (or out of) flush-to-zero and denormals-are-zero.
void set_flush_to_zero(bool on) {
  set_float_state(on ? float_state() | kFlushesToZero : float_state() & ~kFlushesToZero);
}

py::tuple brackets_python(const py::array& queries, double queries_max_abs,
                          const py::sequence& segments, const std::string& metric,
                          const std::string& filter, const ExecutionChoice& choice,
                          std::size_t depth_block) {
  SearchRequest request = request_from(queries, queries_max_abs, segments, 1, metric);
  require(request.segments.size() == 1, "one segment");
  request.forced.filter = filter_named(filter);
  request.forced.blocks.depth = depth_block;
  const std::vector<std::size_t> shape{request.q, request.segments[0].n};
  Array<double> low(shape), high(shape);
  const FpGuard guard;
  filter_brackets(request, choice.kernels(), low.mutable_data(), high.mutable_data());
  return py::make_tuple(low, high);
}

// Returns the index of the request's only segment, which must be of this kind.
template <class Kind>
const Kind& only_index(const SearchRequest& request) {
  require(request.segments.size() == 1, "one segment");
  const auto* index = dynamic_cast<const Kind*>(request.segments[0].index);
  require(index != nullptr, "the segment has no index of this kind");
  return *index;
}

py::tuple cascade_bounds_python(const py::array& queries, double queries_max_abs,
                                const py::sequence& segments, const std::string& metric,
                                const ExecutionChoice& choice) {
  const SearchRequest request = request_from(queries, queries_max_abs, segments, 1, metric);
  const Cascade& cascade = only_index<Cascade>(request);
  const std::vector<std::size_t> shape{request.q, cascade.n};
  std::array<Array<double>, 6> out;
  for (Array<double>& each : out) each = Array<double>(shape);
  const FpGuard guard;
  Interrupt interrupt;
  const Execution execution{choice.kernels(), choice.thread_count(), interrupt};
  const Visibility visibility(request);
  cascade_bounds(cascade, {request, request.segments[0], 0, execution, visibility, 0, request.q},
                 {out[0].mutable_data(), out[1].mutable_data(), out[2].mutable_data(),
                  out[3].mutable_data(), out[4].mutable_data(), out[5].mutable_data()});
  return py::make_tuple(out[0], out[1], out[2], out[3], out[4], out[5]);
}

py::tuple points_python(const Array<float>& vectors, const std::string& metric, double longest,
                        bool as_queries, const ExecutionChoice& choice) {
  require(vectors.ndim() == 2 && extent(vectors, 1) > 0, "vectors must be (n, d), d >= 1");
  const std::size_t n = extent(vectors, 0), d = extent(vectors, 1);
  const Points of{Points::ordering(metric_named(metric)), d, longest};
  Array<float> points(std::vector<std::size_t>{n, of.dimensions()});
  Array<double> off(std::vector<std::size_t>{n});
  const KernelTable& kernels = choice.kernels();
  const FpGuard guard;
  for (std::size_t i = 0; i < n; ++i) {
    float* out = points.mutable_data() + i * of.dimensions();
    const float* x = vectors.data() + i * d;
    const float* point = as_queries ? of.query(x, kernels, out, off.mutable_data() + i)
                                    : of.row(x, kernels, out, off.mutable_data() + i);
    if (point != out) std::copy_n(point, of.dimensions(), out);
  }
  return py::make_tuple(points, off);
}

Array<double> tree_bounds_python(const Array<float>& queries, const py::sequence& segments) {
  const SearchRequest request = request_from(queries, 0, segments, 1, "euclidean");
  const Tree& tree = only_index<Tree>(request);
  Array<double> out(std::vector<std::size_t>{request.q, tree.n, tree.height + 1});
  const FpGuard guard;
  Interrupt interrupt;
  const Execution execution{select_kernels(""), 1, interrupt};
  const Visibility visibility(request);
  tree_bounds(tree, {request, request.segments[0], 0, execution, visibility, 0, request.q},
              out.mutable_data());
  return out;
}

// Returns a copy of x, to which one of the table's functions was applied in place.
Array<double> applied(const Array<double>& x, const ExecutionChoice& choice,
                      void (*ExactKernels::*function)(double*, std::size_t)) {
  require(x.ndim() == 1, "x must be one-dimensional");
  Array<double> out(x.shape(0));
  std::copy_n(x.data(), x.size(), out.mutable_data());
  const FpGuard guard;
  (choice.kernels().exact.*function)(out.mutable_data(), extent(out, 0));
  return out;
}

Array<double> exp_python(const Array<double>& x, const ExecutionChoice& choice) {
  return applied(x, choice, &ExactKernels::exp);
}

Array<double> log_python(const Array<double>& x, const ExecutionChoice& choice) {
  return applied(x, choice, &ExactKernels::log);
}

}  // namespace

void register_testing(py::module_& module) {
  using namespace py::literals;
  module.def("set_flush_to_zero", &set_flush_to_zero, "on"_a);
  module.def("group_cpus", &group_cpus, "root"_a,
             "CPUs that the control groups of a file system at `root` leave; 0: no limit.");
  module.def("filter_brackets", &brackets_python, py::arg("queries").noconvert(),
             "queries_max_abs"_a, "segments"_a, "metric"_a, "filter"_a = "dot",
             execution_argument(), "depth_block"_a = 0,
             "Bounds (low, high) of the canonical keys, (q, n) each.");
  module.def("cascade_bounds", &cascade_bounds_python, py::arg("queries").noconvert(),
             "queries_max_abs"_a, "segments"_a, "metric"_a = "euclidean", execution_argument(),
             "Bounds of the distances between exact points by cluster, projection, coded row (low, "
             "high) and canonical key (low, high), (q, n) each.");
  module.def("points", &points_python, py::arg("vectors").noconvert(), "metric"_a, "longest"_a,
             "as_queries"_a, execution_argument(),
             "Points that a cascade holds of rows or queries, and how far off each may be.");
  module.def("tree_bounds", &tree_bounds_python, py::arg("queries").noconvert(), "segments"_a,
             "Lower bounds of canonical keys by the boxes from the root down, (q, n, levels).");
  module.def("exp", &exp_python, py::arg("x").noconvert(), execution_argument());
  module.def("log", &log_python, py::arg("x").noconvert(), execution_argument());
}

}  // namespace resmem
