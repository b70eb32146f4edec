#include <optional>

#include "../engine/search.h"
#include "execution.h"
#include "search_request.h"

namespace resmem {
namespace {

py::dict as_dict(const SearchStats& stats) {
  py::dict result;
  result["isa"] = stats.isa;
  result["strategy"] = stats.strategy;
  result["filter"] = stats.filter;
  result["pairs_filtered"] = stats.pairs_filtered;
  result["hits"] = stats.hits;
  result["thinnings"] = stats.thinnings;
  result["exact_thinnings"] = stats.exact_thinnings;
  result["deferred"] = stats.deferred;
  result["rescored"] = stats.rescored;
  result["rows_gathered"] = stats.rows_gathered;
  result["pairs_coded"] = stats.pairs_coded;
  result["code_hits"] = stats.code_hits;
  result["rows_coded"] = stats.rows_coded;
  result["given_up"] = stats.given_up;
  result["boxes"] = stats.boxes;
  return result;
}

py::tuple search_python(const py::array& queries, double queries_max_abs,
                        const py::sequence& segments, std::size_t k, const std::string& metric,
                        const OptionalIntegers& exclude, std::int64_t version,
                        const ForcedPlan& forced, const OptionalIntegers& exclude_groups,
                        const OptionalIntegers& before, const py::object& among,
                        const ExecutionChoice& choice) {
  SearchRequest request = request_from(queries, queries_max_abs, segments, k, metric);
  VisibleRows{version, exclude, exclude_groups, before, among}.apply_to(request);
  request.forced = forced;

  const std::vector<std::size_t> shape{request.q, k};
  Array<double> values(shape);
  Array<std::int64_t> ids(shape), positions(shape);
  const SearchOutput output{values.mutable_data(), ids.mutable_data(), positions.mutable_data()};
  const SearchStats stats = without_gil(
      choice, [&](const Execution& execution) { return search(request, execution, output); });
  return py::make_tuple(values, ids, positions, as_dict(stats));
}

ForcedPlan plan_from(const std::string& strategy, const std::string& filter, std::size_t queries,
                     std::size_t rows, std::size_t depth, std::size_t buffer) {
  return {choice<Strategy>(strategy, {{"automatic", Strategy::automatic},
                                      {"by_queries", Strategy::by_queries},
                                      {"by_rows", Strategy::by_rows},
                                      {"stream", Strategy::stream},
                                      {"exact", Strategy::exact}}),
          filter_named(filter),
          {queries, rows, depth, buffer}};
}

}  // namespace

void register_search(py::module_& module) {
  using namespace py::literals;
  py::class_<ForcedPlan>(module, "ForcedPlan", "What tests force of a search's plan.")
      .def(py::init(&plan_from), "strategy"_a = "automatic", "filter"_a = "automatic",
           "query_block"_a = 0, "row_block"_a = 0, "depth_block"_a = 0, "buffer"_a = 0,
           "Two names, and sizes of blocks; 0 leaves a size to the search.");
  module.def("search", &search_python, py::arg("queries").noconvert(), "queries_max_abs"_a,
             "segments"_a, "k"_a, "metric"_a, py::arg("exclude").noconvert() = py::none(),
             "version"_a = 0, py::arg_v("forced", ForcedPlan(), "..."),
             py::arg("exclude_groups").noconvert() = py::none(),
             py::arg("before").noconvert() = py::none(), "among"_a = py::none(),
             execution_argument(), "Values, ids and positions, (q, k) each, and what really ran.");
}

}  // namespace resmem
