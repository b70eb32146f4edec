#include "../residuals/aggregate.h"

#include <optional>

#include "bindings.h"
#include "linear_head.h"

namespace resmem {
namespace {

DenseSegment dense_segment(const py::tuple& parts, std::size_t columns) {
  require(parts.size() == 2, "a dense segment must be ('dense', residuals)");
  DenseSegment segment;
  segment.residuals = stored_numbers(parts[1], "residuals", columns, true);
  segment.n = py::len(parts[1]);
  require(segment.residuals.type != NumberType::bfloat16, "residuals must be float32 or float16");
  return segment;
}

SparseSegment sparse_segment(const py::tuple& parts, std::size_t) {
  require(parts.size() == 4, "a sparse segment must be ('sparse', index, value, rest)");
  SparseSegment segment;
  const auto index = exact_array<std::int32_t>(parts[1], "a contiguous int32 index");
  require(index.ndim() == 2, "index must be (n, s + 1)");
  segment.index = index.data();
  segment.n = extent(index, 0);
  segment.width = extent(index, 1);
  segment.value = stored_numbers(parts[2], "value", segment.width);
  require(segment.value.type != NumberType::bfloat16, "value must be float32 or float16");
  const auto rest = exact_array<float>(parts[3], "a contiguous float32 rest");
  require(py::len(parts[2]) == segment.n && rest.ndim() == 1 && extent(rest, 0) == segment.n,
          "index and value must be (n, s + 1), rest (n,)");
  segment.rest = rest.data();
  return segment;
}

HeadSegment head_segment(const py::tuple& parts, std::size_t d) {
  require(parts.size() == 3, "a head segment must be ('head', keys, labels)");
  HeadSegment segment;
  segment.keys = stored_numbers(parts[1], "keys", d);
  const auto labels = exact_array<std::int64_t>(parts[2], "contiguous int64 labels");
  require(labels.ndim() == 1 && extent(labels, 0) == py::len(parts[1]),
          "keys must be (n, d) and labels (n,)");
  segment.labels = labels.data();
  segment.n = extent(labels, 0);
  return segment;
}

// All segments, which must be of the first one's kind; returns how many rows they hold.
template <class Segment>
std::size_t take_segments(ResidualStore& store, const py::sequence& segments, const char* kind,
                          Segment (*take)(const py::tuple&, std::size_t), std::size_t columns) {
  std::vector<Segment> taken;
  std::size_t total = 0;
  for (const py::handle& item : segments) {
    const auto parts = py::reinterpret_borrow<py::tuple>(item);
    require(parts[0].cast<std::string>() == kind, "segments must be of one kind");
    taken.push_back(take(parts, columns));
    total += taken.back().n;
  }
  store = std::move(taken);
  return total;
}

std::size_t take_store(AggregateRequest& request, const py::sequence& segments) {
  for (const py::handle& item : segments)
    require(py::isinstance<py::tuple>(item) && py::len(item) > 0,
            "a segment must be a tuple that begins with its kind");
  const std::string kind =
      segments.empty() ? "dense" : segments[0].cast<py::tuple>()[0].cast<std::string>();
  if (kind == "dense") {
    const std::size_t total =
        take_segments(request.store, segments, "dense", dense_segment, request.columns);
    const auto& dense = std::get<std::vector<DenseSegment>>(request.store);
    const auto wide = [](const DenseSegment& s) { return s.residuals.type == NumberType::float64; };
    const auto count = std::count_if(dense.begin(), dense.end(), wide);
    require(count == 0 || count == static_cast<std::ptrdiff_t>(dense.size()),
            "residuals must be float64 in all segments or in none");
    return total;
  }
  if (kind == "sparse")
    return take_segments(request.store, segments, "sparse", sparse_segment, request.columns);
  require(kind == "head", "a segment's kind must be 'dense', 'sparse' or 'head'");
  require(request.head.columns == request.columns, "head must have a row per column");
  return take_segments(request.store, segments, "head", head_segment, request.head.d);
}

// Every position and every column asked for must be there.
void check_numbers(const AggregateRequest& request, std::size_t total) {
  const std::int64_t* positions = request.positions;
  for (std::size_t i = 0; i < request.q * request.k; ++i)
    if (positions[i] >= static_cast<std::int64_t>(total))
      throw std::out_of_range("position " + std::to_string(positions[i]) + " is beyond the " +
                              std::to_string(total) + " rows");
  for (std::size_t i = 0; request.select != nullptr && i < request.q * request.selected; ++i)
    if (static_cast<std::uint64_t>(request.select[i]) >= request.columns)
      throw std::out_of_range("column " + std::to_string(request.select[i]) +
                              " is not one of the columns 0 to " +
                              std::to_string(static_cast<std::int64_t>(request.columns) - 1));
}

// (weight, bias, temperature)
LinearHead head_from(const py::tuple& parts) {
  require(parts.size() == 3, "head must be (weight, bias, temperature)");
  return linear_head(exact_array<float>(parts[0], "a contiguous float32 weight"),
                     exact_array<float>(parts[1], "a contiguous float32 bias"),
                     parts[2].cast<double>());
}

Array<double> aggregate_python(const py::sequence& segments, const Array<double>& distances,
                               const Array<std::int64_t>& positions, double sigma,
                               std::size_t columns, double strength,
                               std::optional<Array<double>> base, std::size_t threads,
                               const std::string& isa, const std::optional<py::tuple>& head,
                               const std::optional<Array<std::int64_t>>& select) {
  require(distances.ndim() == 2 && positions.ndim() == 2 &&
              extent(positions, 0) == extent(distances, 0) &&
              extent(positions, 1) == extent(distances, 1),
          "distances and positions must be (q, k)");
  require(columns > 0, "columns must be 1 or more");
  AggregateRequest request;
  request.columns = columns;
  request.distances = distances.data();
  request.positions = positions.data();
  request.q = extent(distances, 0);
  request.k = extent(distances, 1);
  request.sigma = sigma;
  request.strength = strength;
  request.threads = thread_count(threads);
  request.add_to_out = base.has_value();
  if (head) request.head = head_from(*head);
  const std::size_t total = take_store(request, segments);
  if (select) {
    require(select->ndim() == 2 && extent(*select, 0) == request.q, "select must be (q, t)");
    request.select = select->data();
    request.selected = extent(*select, 1);
  }
  const std::vector<std::size_t> shape{request.q, request.width()};
  if (base)
    require(base->ndim() == 2 && shape_of(*base) == shape,
            "base must be (q, C), or (q, t) like select");
  const KernelTable& kernels = select_kernels(isa);
  Array<double> out = base ? std::move(*base) : Array<double>(shape);
  double* target = out.mutable_data();
  without_gil([&](Interrupt& interrupt) {
    check_numbers(request, total);
    aggregate(request, kernels, target, interrupt);
  });
  return out;
}

py::tuple weights_python(const Array<double>& distances, const Array<std::int64_t>& positions,
                         double sigma, const std::string& isa) {
  require(distances.ndim() == 2 && positions.ndim() == 2 &&
              extent(positions, 0) == extent(distances, 0) &&
              extent(positions, 1) == extent(distances, 1),
          "distances and positions must be (q, k)");
  const KernelTable& kernels = select_kernels(isa);
  const std::size_t q = extent(distances, 0), k = extent(distances, 1);
  Array<double> out(std::vector<std::size_t>{q, k}), totals(std::vector<std::size_t>{q});
  double *target = out.mutable_data(), *total = totals.mutable_data();
  without_gil([&](Interrupt&) {
    std::fill_n(target, q * k, 0.0);
    for (std::size_t i = 0; i < q; ++i)
      total[i] = neighbour_weights(distances.data() + i * k, positions.data() + i * k, k, sigma,
                                   kernels, target + i * k)
                     .total;
  });
  return py::make_tuple(out, totals);
}

}  // namespace

void register_aggregate(py::module_& module) {
  using namespace py::literals;
  module.def("aggregate", &aggregate_python, "segments"_a, py::arg("distances").noconvert(),
             py::arg("positions").noconvert(), "sigma"_a, "columns"_a, "strength"_a = 1.0,
             py::arg("base").noconvert() = py::none(), "threads"_a = 0, "isa"_a = "",
             "head"_a = py::none(), py::arg("select").noconvert() = py::none(),
             "Weighted residual sums (q, C), or of the columns select (q, t) alone; added, times "
             "strength, into `base` if given.");
  module.def("weights", &weights_python, py::arg("distances").noconvert(),
             py::arg("positions").noconvert(), "sigma"_a, "isa"_a = "",
             "The neighbours' weights (q, k), 0 for padding, not divided by their sums (q,), which "
             "are 1 where there are none.");
}

}  // namespace resmem
