#include <optional>
#include <string>

#include "../engine/correct.h"
#include "execution.h"
#include "residual_request.h"
#include "search_request.h"

namespace resmem {
namespace {

Array<double> correct_python(
    const py::array& queries, double queries_max_abs, const py::sequence& segments, std::size_t k,
    const py::sequence& residual_rows, double sigma, std::size_t columns, double strength,
    std::optional<Array<double>> base, const OptionalIntegers& exclude, const BoundLinearHead* head,
    const std::optional<Array<std::int64_t>>& select, std::int64_t version, bool interpolate,
    const OptionalIntegers& exclude_groups, const OptionalIntegers& before, const py::object& among,
    const py::object& row_weights, const std::string& metric, const ExecutionChoice& choice) {
  SearchRequest request = request_from(queries, queries_max_abs, segments, k, metric);
  VisibleRows{version, exclude, exclude_groups, before, among}.apply_to(request);
  ResidualRequest residuals(residual_rows, sigma, columns, strength, interpolate, head, select,
                            row_weights, request.q);
  std::size_t rows = 0;
  for (const Segment& segment : request.segments) rows += segment.n;
  require(residuals.rows == rows, "segments must have as many rows as their residuals");
  Array<double> out = residuals.out(base, request.q);
  double* target = out.mutable_data();
  without_gil(choice, [&](const Execution& execution) {
    residuals.check_columns(request.q);
    correct(request, residuals.request, execution, target);
  });
  return out;
}

}  // namespace

void register_correct(py::module_& module) {
  using namespace py::literals;
  module.def("correct", &correct_python, py::arg("queries").noconvert(), "queries_max_abs"_a,
             "segments"_a, "k"_a, "residuals"_a, "sigma"_a, "columns"_a, "strength"_a = 1.0,
             py::arg("base").noconvert() = py::none(), py::arg("exclude").noconvert() = py::none(),
             "head"_a = py::none(), py::arg("select").noconvert() = py::none(), "version"_a = 0,
             "interpolate"_a = false, py::arg("exclude_groups").noconvert() = py::none(),
             py::arg("before").noconvert() = py::none(), "among"_a = py::none(),
             "row_weights"_a = py::none(), "metric"_a = "euclidean", execution_argument(),
             "What `aggregate` gives of the neighbours that `search` finds, which stay inside.");
}

}  // namespace resmem
