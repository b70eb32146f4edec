#include <optional>

#include "../engine/search.h"
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
  result["pairs_coded"] = stats.pairs_coded;
  result["code_hits"] = stats.code_hits;
  result["rows_coded"] = stats.rows_coded;
  result["given_up"] = stats.given_up;
  result["boxes"] = stats.boxes;
  return result;
}

py::tuple search_python(const py::array& queries, double queries_max_abs,
                        const py::sequence& segments, std::size_t k, const std::string& metric,
                        const std::optional<Array<std::int64_t>>& exclude, std::size_t threads,
                        const std::string& isa, const std::string& strategy,
                        const std::string& filter, const std::array<std::size_t, 4>& blocks,
                        std::int64_t version) {
  SearchRequest request = request_from(queries, queries_max_abs, segments, k, metric);
  exclude_from(request, exclude);
  request.threads = thread_count(threads);
  request.strategy = choice<Strategy>(strategy, {{"automatic", Strategy::automatic},
                                                 {"by_queries", Strategy::by_queries},
                                                 {"by_rows", Strategy::by_rows},
                                                 {"stream", Strategy::stream},
                                                 {"exact", Strategy::exact}});
  request.filter = filter_named(filter);
  request.version = version;
  request.blocks = {blocks[0], blocks[1], blocks[2], blocks[3]};
  const KernelTable& kernels = select_kernels(isa);

  const std::vector<std::size_t> shape{request.q, k};
  Array<double> values(shape);
  Array<std::int64_t> ids(shape), positions(shape);
  const SearchOutput output{values.mutable_data(), ids.mutable_data(), positions.mutable_data()};
  const SearchStats stats = without_gil(
      [&](Interrupt& interrupt) { return search(request, kernels, output, interrupt); });
  return py::make_tuple(values, ids, positions, as_dict(stats));
}

}  // namespace

void register_search(py::module_& module) {
  using namespace py::literals;
  module.def("search", &search_python, py::arg("queries").noconvert(), "queries_max_abs"_a,
             "segments"_a, "k"_a, "metric"_a, py::arg("exclude").noconvert() = py::none(),
             "threads"_a = 0, "isa"_a = "", "strategy"_a = "automatic", "filter"_a = "automatic",
             "blocks"_a = std::array<std::size_t, 4>{}, "version"_a = 0,
             "Values, ids and positions, (q, k) each, and what really ran.");
}

}  // namespace resmem
