#include <optional>

#include "../residuals/simplex.h"
#include "../residuals/sweep.h"
#include "execution.h"

namespace resmem {
namespace {

SimplexMap map_from(const std::string& kind, double floor) {
  using Kind = SimplexMap::Kind;
  return {
      choice<Kind>(kind, {{"clip", Kind::clip}, {"project", Kind::project}, {"keep", Kind::keep}}),
      floor};
}

void simplex_python(Array<double>& values, double floor, const std::string& kind,
                    const std::optional<Array<double>>& base, double strength,
                    const ExecutionChoice& choice) {
  require(values.ndim() == 2, "values must be (n, C)");
  const SimplexMap map = map_from(kind, floor);
  require(base.has_value() || map.kind != SimplexMap::Kind::keep, "keep needs a base");
  require(!base || shape_of(*base) == shape_of(values), "base must be (n, C) like values");
  const SimplexRows rows{values.mutable_data(), base ? base->data() : nullptr, strength,
                         extent(values, 0), extent(values, 1)};
  without_gil(choice, [&](const Execution& execution) { map_to_simplex(map, rows, execution); });
}

void check_targets(SweepRequest& request, const py::array& targets) {
  if (py::isinstance<Array<std::int64_t>>(targets)) {
    require(targets.ndim() == 1 && extent(targets, 0) == request.q, "labels must be (q,)");
    require(request.score != SweepScore::squared_error &&
                request.score != SweepScore::absolute_error && request.bins > 0,
            "labels are scored by log_loss, accuracy, brier or calibration");
    request.labels = static_cast<const std::int64_t*>(targets.data());
    return;
  }
  require(request.score == SweepScore::squared_error || request.score == SweepScore::absolute_error,
          "values are scored by squared_error or absolute_error");
  require(request.maps.size() == 1, "values have no map to choose");
  require(request.base != nullptr, "values need a base");
  require(request.row_labels == nullptr, "values need rows of values");
  require(py::isinstance<Array<double>>(targets) && targets.ndim() == 2 &&
              extent(targets, 0) == request.q && extent(targets, 1) == request.columns,
          "targets must be int64 (q,) or float64 (q, C)");
  request.values = static_cast<const double*>(targets.data());
}

// Checks every number by which arrays are indexed.
void check_numbers(const SweepRequest& request) {
  require(!request.ks.empty() && !request.sigmas.empty() && !request.strengths.empty() &&
              !request.maps.empty() && request.columns > 0,
          "there must be a k, a sigma, a strength, a map and a column");
  require(std::is_sorted(request.ks.begin(), request.ks.end()) && request.ks.back() <= request.k,
          "ks must ascend, up to k");
  require(!request.bounds.empty() && request.bounds.front() == 0 &&
              request.bounds.back() == request.q &&
              std::is_sorted(request.bounds.begin(), request.bounds.end()),
          "bounds must ascend from 0 to q");
  for (std::size_t i = 0; i < request.q * request.k; ++i)
    require(request.positions[i] < static_cast<std::int64_t>(request.rows),
            "positions must be rows of residuals");
  for (std::size_t i = 0; request.labels != nullptr && i < request.q; ++i)
    require(static_cast<std::uint64_t>(request.labels[i]) < request.columns,
            "labels must be classes");
  for (std::size_t i = 0; request.row_labels != nullptr && i < request.rows; ++i)
    require(static_cast<std::uint64_t>(request.row_labels[i]) < request.columns,
            "the rows' labels must be classes");
}

// Takes what is summed of the rows: a matrix, or classes of as many kinds as targets have columns.
void take_summed(SweepRequest& request, const py::array& summed, std::size_t columns) {
  request.rows = extent(summed, 0);
  if (summed.ndim() == 1) {
    require(py::isinstance<Array<std::int64_t>>(summed), "the rows' labels must be int64");
    request.row_labels = static_cast<const std::int64_t*>(summed.data());
    request.columns = columns;
    return;
  }
  require(summed.ndim() == 2, "residuals must be (n, C)");
  request.columns = extent(summed, 1);
  const Numbers numbers = stored_numbers(summed, "residuals", request.columns, true);
  require(numbers.type == NumberType::float32 || numbers.type == NumberType::float64,
          "residuals must be float32 or float64");
  if (numbers.type == NumberType::float64)
    request.residuals64 = numbers.wide(0);
  else
    request.residuals = static_cast<const float*>(numbers.data);
}

Array<double> sweep_python(const py::array& residuals, const Array<double>& distances,
                           const Array<std::int64_t>& positions,
                           const std::optional<Array<double>>& base, const py::array& targets,
                           std::vector<std::size_t> bounds, std::vector<std::size_t> ks,
                           std::vector<double> sigmas, std::vector<double> strengths,
                           const std::vector<std::pair<std::string, double>>& maps,
                           const std::string& score, std::size_t bins, bool interpolate,
                           std::size_t columns, const std::optional<Array<double>>& row_weights,
                           const ExecutionChoice& choice) {
  require(
      distances.ndim() == 2 && positions.ndim() == 2 && shape_of(distances) == shape_of(positions),
      "distances and positions must be (q, k)");
  SweepRequest request;
  take_summed(request, residuals, columns);
  require(!row_weights || (row_weights->ndim() == 1 && extent(*row_weights, 0) == request.rows),
          "row_weights must be (rows,)");
  request.row_weights = row_weights ? row_weights->data() : nullptr;
  request.distances = distances.data();
  request.positions = positions.data();
  request.q = extent(distances, 0);
  request.k = extent(distances, 1);
  require(!base || (base->ndim() == 2 && extent(*base, 0) == request.q &&
                    extent(*base, 1) == request.columns),
          "base must be (q, C)");
  request.base = base ? base->data() : nullptr;
  request.score =
      resmem::choice<SweepScore>(score, {{"log_loss", SweepScore::log_loss},
                                         {"accuracy", SweepScore::accuracy},
                                         {"brier", SweepScore::brier},
                                         {"calibration", SweepScore::calibration},
                                         {"squared_error", SweepScore::squared_error},
                                         {"absolute_error", SweepScore::absolute_error}});
  request.bins = bins;
  request.interpolate = interpolate;
  require(!interpolate || (base.has_value() && maps.size() == 1),
          "interpolate needs a base and one map, which it does not use");
  for (const auto& [kind, floor] : maps) {
    request.maps.push_back(map_from(kind, floor));
    require(base.has_value() || request.maps.back().kind != SimplexMap::Kind::keep,
            "keep needs a base");
  }
  check_targets(request, targets);
  request.bounds = std::move(bounds);
  request.ks = std::move(ks);
  request.sigmas = std::move(sigmas);
  request.strengths = std::move(strengths);
  check_numbers(request);
  Array<double> out(std::vector<std::size_t>{request.folds(), request.ks.size(),
                                             request.sigmas.size(), request.strengths.size(),
                                             request.maps.size(), request.width()});
  double* target = out.mutable_data();
  without_gil(choice, [&](const Execution& execution) { sweep(request, execution, target); });
  return out;
}

}  // namespace

void register_sweep(py::module_& module) {
  using namespace py::literals;
  module.def("simplex", &simplex_python, py::arg("values").noconvert(), "floor"_a,
             "kind"_a = "clip", py::arg("base").noconvert() = py::none(), "strength"_a = 1.0,
             execution_argument(),
             "Rows mapped to the simplex by clip, project or keep, in place; base, if it is known, "
             "is what was corrected, with this strength.");
  module.def("sweep", &sweep_python, py::arg("residuals").noconvert(),
             py::arg("distances").noconvert(), py::arg("positions").noconvert(),
             py::arg("base").noconvert(), py::arg("targets").noconvert(), "bounds"_a, "ks"_a,
             "sigmas"_a, "strengths"_a, "maps"_a, "score"_a, "bins"_a = 15, "interpolate"_a = false,
             "columns"_a = 0, py::arg("row_weights").noconvert() = py::none(), execution_argument(),
             "Sums of scores (folds, ks, sigmas, strengths, maps, width) over the queries. "
             "Residuals (n, C) may be the targets of rows, or their classes (n,) of `columns` "
             "ones.");
}

}  // namespace resmem
