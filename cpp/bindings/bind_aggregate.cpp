#include "../core/aggregate.h"

#include <optional>

#include "bindings.h"

namespace resmem {
namespace {

std::vector<std::size_t> shape_of(const py::array& array) {
  return {extent(array, 0), extent(array, 1)};
}

Array<double> softmax_python(const Array<float>& logits, double temperature, std::size_t threads,
                             const std::string& isa) {
  require(logits.ndim() == 2, "logits must be (n, C)");
  const KernelTable& kernels = select_kernels(isa);
  Array<double> out(shape_of(logits));
  double* target = out.mutable_data();
  without_gil([&](Interrupt& interrupt) {
    softmax_rows(logits.data(), extent(logits, 0), extent(logits, 1), temperature, kernels,
                 thread_count(threads), target, interrupt);
  });
  return out;
}

Array<float> residuals_python(const Array<float>& outputs, const Array<std::int64_t>& labels,
                              double temperature, std::size_t threads, const std::string& isa) {
  require(outputs.ndim() == 2 && labels.ndim() == 1 && extent(labels, 0) == extent(outputs, 0),
          "outputs must be (n, C) and labels (n,)");
  const KernelTable& kernels = select_kernels(isa);
  const ClassRows rows{outputs.data(), labels.data(), extent(outputs, 0), extent(outputs, 1),
                       temperature};
  Array<float> out(shape_of(outputs));
  float* target = out.mutable_data();
  without_gil([&](Interrupt& interrupt) {
    class_residuals(rows, kernels, thread_count(threads), target, interrupt);
  });
  return out;
}

void simplex_python(Array<double>& values, double floor, std::size_t threads,
                    const std::string& isa) {
  require(values.ndim() == 2, "values must be (n, C)");
  const KernelTable& kernels = select_kernels(isa);
  double* target = values.mutable_data();
  without_gil([&](Interrupt& interrupt) {
    simplex_rows(target, extent(values, 0), extent(values, 1), floor, kernels,
                 thread_count(threads), interrupt);
  });
}

Array<double> aggregate_python(const py::list& segments, const Array<double>& distances,
                               const Array<std::int64_t>& positions, double sigma,
                               std::size_t columns, double strength,
                               std::optional<Array<double>> base, std::size_t threads,
                               const std::string& isa) {
  AggregateRequest request;
  std::size_t total = 0;
  for (const py::handle& item : segments) {
    const auto residuals = item.cast<Array<float>>();
    require(residuals.ndim() == 2 && extent(residuals, 1) == columns, "residuals must be (n, C)");
    request.segments.push_back({residuals.data(), extent(residuals, 0)});
    total += extent(residuals, 0);
  }
  require(distances.ndim() == 2 && positions.ndim() == 2 &&
              extent(positions, 0) == extent(distances, 0) &&
              extent(positions, 1) == extent(distances, 1),
          "distances and positions must be (q, k)");
  request.columns = columns;
  request.distances = distances.data();
  request.positions = positions.data();
  request.q = extent(distances, 0);
  request.k = extent(distances, 1);
  request.sigma = sigma;
  request.strength = strength;
  request.threads = thread_count(threads);
  request.add_to_out = base.has_value();
  if (base)
    require(base->ndim() == 2 && extent(*base, 0) == request.q && extent(*base, 1) == columns,
            "base must be (q, C)");
  const KernelTable& kernels = select_kernels(isa);
  Array<double> out =
      base ? std::move(*base) : Array<double>(std::vector<std::size_t>{request.q, columns});
  double* target = out.mutable_data();
  without_gil([&](Interrupt& interrupt) {
    const std::int64_t* last = request.positions + request.q * request.k;
    for (const std::int64_t* p = request.positions; p != last; ++p)
      if (*p >= static_cast<std::int64_t>(total))
        throw std::out_of_range("position " + std::to_string(*p) + " is beyond the " +
                                std::to_string(total) + " rows");
    aggregate(request, kernels, target, interrupt);
  });
  return out;
}

Array<double> weights_python(const Array<double>& distances, const Array<std::int64_t>& positions,
                             double sigma, const std::string& isa) {
  require(distances.ndim() == 2 && positions.ndim() == 2 &&
              extent(positions, 0) == extent(distances, 0) &&
              extent(positions, 1) == extent(distances, 1),
          "distances and positions must be (q, k)");
  const KernelTable& kernels = select_kernels(isa);
  const std::size_t q = extent(distances, 0), k = extent(distances, 1);
  Array<double> out(std::vector<std::size_t>{q, k});
  double* target = out.mutable_data();
  without_gil([&](Interrupt&) {
    std::fill_n(target, q * k, 0.0);
    for (std::size_t i = 0; i < q; ++i)
      neighbour_weights(distances.data() + i * k, positions.data() + i * k, k, sigma, kernels,
                        target + i * k);
  });
  return out;
}

}  // namespace

void register_aggregate(py::module_& module) {
  using namespace py::literals;
  module.def("softmax", &softmax_python, py::arg("logits").noconvert(), "temperature"_a,
             "threads"_a = 0, "isa"_a = "", "Row-wise softmax(logits / temperature), float64.");
  module.def("class_residuals", &residuals_python, py::arg("outputs").noconvert(),
             py::arg("labels").noconvert(), "temperature"_a, "threads"_a = 0, "isa"_a = "",
             "onehot(label) - base, float32; temperature 0: the outputs are probabilities.");
  module.def("simplex", &simplex_python, py::arg("values").noconvert(), "floor"_a, "threads"_a = 0,
             "isa"_a = "", "Clips rows at floor and renormalises, in place.");
  module.def("aggregate", &aggregate_python, "segments"_a, py::arg("distances").noconvert(),
             py::arg("positions").noconvert(), "sigma"_a, "columns"_a, "strength"_a = 1.0,
             "base"_a = py::none(), "threads"_a = 0, "isa"_a = "",
             "Weighted residual sums (q, C); added, times strength, into `base` if given.");
  module.def("weights", &weights_python, py::arg("distances").noconvert(),
             py::arg("positions").noconvert(), "sigma"_a, "isa"_a = "",
             "The neighbours' weights (q, k), 0 for padding.");
}

}  // namespace resmem
