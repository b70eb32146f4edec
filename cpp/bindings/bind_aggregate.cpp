#include <optional>

#include "execution.h"
#include "residual_request.h"

namespace resmem {
namespace {

// Refuses a position that is beyond the rows.
void check_positions(const std::int64_t* positions, std::size_t count, std::size_t rows) {
  for (std::size_t i = 0; i < count; ++i)
    if (positions[i] >= static_cast<std::int64_t>(rows))
      throw std::out_of_range("position " + std::to_string(positions[i]) + " is beyond the " +
                              std::to_string(rows) + " rows");
}

Array<double> aggregate_python(const py::sequence& rows, const Array<double>& distances,
                               const Array<std::int64_t>& positions, double sigma,
                               std::size_t columns, double strength,
                               std::optional<Array<double>> base, const BoundLinearHead* head,
                               const std::optional<Array<std::int64_t>>& select, bool interpolate,
                               const std::optional<Array<double>>& strengths,
                               const py::object& row_weights, const ExecutionChoice& choice) {
  require(distances.ndim() == 2 && positions.ndim() == 2 &&
              extent(positions, 0) == extent(distances, 0) &&
              extent(positions, 1) == extent(distances, 1),
          "distances and positions must be (q, k)");
  const std::size_t q = extent(distances, 0);
  ResidualRequest residuals(rows, sigma, columns, strength, interpolate, head, select, row_weights,
                            q);
  AggregateRequest& request = residuals.request;
  request.distances = distances.data();
  request.positions = positions.data();
  request.q = q;
  request.k = extent(distances, 1);
  require(!strengths || (strengths->ndim() == 1 && extent(*strengths, 0) == q),
          "strengths must be (q,)");
  request.strengths = strengths ? strengths->data() : nullptr;
  Array<double> out = residuals.out(base, q);
  double* target = out.mutable_data();
  without_gil(choice, [&](const Execution& execution) {
    check_positions(request.positions, q * request.k, residuals.rows);
    residuals.check_columns(q);
    aggregate(request, execution, target);
  });
  return out;
}

py::tuple weights_python(const Array<double>& distances, const Array<std::int64_t>& positions,
                         double sigma, const py::object& row_weights,
                         const ExecutionChoice& choice) {
  require(distances.ndim() == 2 && positions.ndim() == 2 &&
              extent(positions, 0) == extent(distances, 0) &&
              extent(positions, 1) == extent(distances, 1),
          "distances and positions must be (q, k)");
  const std::size_t q = extent(distances, 0), k = extent(distances, 1);
  Array<double> out(std::vector<std::size_t>{q, k}), totals(std::vector<std::size_t>{q});
  double *target = out.mutable_data(), *total = totals.mutable_data();
  const BoundWeights rows(row_weights);
  without_gil(choice, [&](const Execution& execution) {
    if (!rows.segments().empty()) check_positions(positions.data(), q * k, rows.count());
    const NeighbourWeights weigh(sigma, rows.segments(), execution.kernels);
    std::fill_n(target, q * k, 0.0);
    for (std::size_t i = 0; i < q; ++i) {
      const std::size_t at = i * k;
      total[i] = weigh(distances.data() + at, positions.data() + at, k, target + at).total;
    }
  });
  return py::make_tuple(out, totals);
}

}  // namespace

void register_aggregate(py::module_& module) {
  using namespace py::literals;
  module.def("aggregate", &aggregate_python, "residuals"_a, py::arg("distances").noconvert(),
             py::arg("positions").noconvert(), "sigma"_a, "columns"_a, "strength"_a = 1.0,
             py::arg("base").noconvert() = py::none(), "head"_a = py::none(),
             py::arg("select").noconvert() = py::none(), "interpolate"_a = false,
             py::arg("strengths").noconvert() = py::none(), "row_weights"_a = py::none(),
             execution_argument(),
             "Weighted means of the rows (q, C), or of the columns select (q, t) alone; added, "
             "times strength, into `base` if given, or base moved to them by that share of the way "
             "with interpolate; strengths (q,) take the place of strength.");
  module.def("weights", &weights_python, py::arg("distances").noconvert(),
             py::arg("positions").noconvert(), "sigma"_a, "row_weights"_a = py::none(),
             execution_argument(),
             "The neighbours' weights (q, k), 0 for padding, not divided by their sums (q,), which "
             "are 1 where there are none.");
}

}  // namespace resmem
