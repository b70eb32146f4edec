#include <numeric>

#include "../../cuda/aggregate.h"
#include "bind_device.h"
#include "device_request.h"

namespace resmem {
namespace {

using device::DeviceAggregate;
using Stream = std::optional<std::uintptr_t>;

// ---- Rows ----------------------------------------------------------------------------------

std::unique_ptr<device::DenseResiduals> dense_from(int device, const std::string& dtype,
                                                   std::size_t columns, const Stream& stream) {
  const NumberType type = number_type(dtype);
  require(columns > 0 && type != NumberType::bfloat16,
          "residuals must be float32, float16 or float64, with columns");
  return std::make_unique<device::DenseResiduals>(source_from(device, stream), type, columns);
}

void extend_dense(device::DenseResiduals& rows, const py::object& residuals) {
  const View view = view_of(residuals, "residuals");
  require(view.shape.size() == 2 && view.extent(1) == rows.columns() &&
              number_type(view.dtype) == rows.type(),
          "residuals must be (n, columns), of the dtype of the rows");
  without_gil([&](const auto&) { rows.extend(view.placed<const void>(), view.extent(0)); });
}

std::unique_ptr<device::SparseResiduals> sparse_from(int device, const std::string& dtype,
                                                     std::size_t columns, std::size_t width,
                                                     const Stream& stream) {
  const NumberType type = number_type(dtype);
  require(columns > 0 && width > 0 && (type == NumberType::float32 || type == NumberType::float16),
          "values must be float32 or float16, with columns and a width of at least 1");
  return std::make_unique<device::SparseResiduals>(source_from(device, stream), type, columns,
                                                   width);
}

void extend_sparse(device::SparseResiduals& rows, const Array<std::int32_t>& index,
                   const py::array& value, const Array<float>& rest) {
  const Numbers values = stored_numbers(value, "value", rows.width());
  require(index.ndim() == 2 && extent(index, 1) == rows.width() && values.type == rows.type(),
          "index must be (n, width), and value too, of the dtype of the rows");
  const std::size_t n = extent(index, 0);
  require(extent(value, 0) == n && rest.ndim() == 1 && extent(rest, 0) == n,
          "index and value must be (n, width), rest (n,)");
  without_gil([&](const auto&) { rows.extend(index.data(), values.data, rest.data(), n); });
}

std::unique_ptr<device::RowLabels> labels_from(int device, std::size_t columns,
                                               const Stream& stream) {
  require(columns > 0, "columns must be 1 or more");
  return std::make_unique<device::RowLabels>(source_from(device, stream), columns);
}

void extend_labels(device::RowLabels& rows, const Array<std::int64_t>& labels) {
  require(labels.ndim() == 1, "labels must be (n,)");
  const std::size_t n = extent(labels, 0);
  without_gil([&](const auto&) { rows.extend(labels.data(), n); });
}

std::unique_ptr<device::RowWeights> weights_from(int device, const Stream& stream) {
  return std::make_unique<device::RowWeights>(source_from(device, stream));
}

void extend_weights(device::RowWeights& rows, const Array<double>& weights) {
  require(weights.ndim() == 1, "weights must be (n,)");
  const std::size_t n = extent(weights, 0);
  without_gil([&](const auto&) { rows.extend(weights.data(), n); });
}

// ---- Gates ---------------------------------------------------------------------------------

constexpr std::initializer_list<std::pair<const char*, device::Feature>> kFeatureNames = {
    {"distance", device::Feature::distance},
    {"confidence", device::Feature::confidence},
    {"agreement", device::Feature::agreement}};

std::unique_ptr<device::DeviceGate> gate_from(int device, const py::sequence& steps) {
  std::vector<device::DeviceGate::Step> taken;
  for (const py::handle& each : steps) {
    const auto [name, edges, factors] =
        each.cast<std::tuple<std::string, std::vector<double>, std::vector<double>>>();
    const device::Feature feature = choice<device::Feature>(name, kFeatureNames);
    for (const auto& step : taken) require(step.feature != feature, "a feature has one step");
    require(factors.size() == edges.size() + 1, "factors must be one more than edges");
    taken.push_back({feature, edges, factors});
  }
  std::unique_ptr<device::DeviceGate> gate;
  without_gil([&](const auto&) { gate = std::make_unique<device::DeviceGate>(device, taken); });
  return gate;
}

std::vector<std::string> feature_names(const device::DeviceGate& gate) {
  std::vector<std::string> names;
  for (const device::GateStep& step : gate.steps())
    for (const auto& [name, feature] : kFeatureNames)
      if (step.feature == feature) names.emplace_back(name);
  return names;
}

// ---- What classes are called ---------------------------------------------------------------

// Numbers (m,) that stay on a device, which view_of() reads there.
class KeptNumbers {
 public:
  KeptNumbers(int device, const Array<std::int64_t>& numbers)
      : shape_{extent(numbers, 0)},
        memory_({device, std::nullopt}, shape_[0] * sizeof(*numbers.data())) {
    require(numbers.ndim() == 1, "numbers must be (m,)");
    const std::int64_t* from = numbers.data();
    without_gil([&](const auto&) {
      const device::OnDevice here(device);
      device::copy_in({}, memory_.of<void>(), from, memory_.bytes());
      device::wait({});
    });
  }
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(memory_.of<void>()); }
  const std::vector<std::size_t>& shape() const { return shape_; }
  std::size_t bytes() const { return memory_.bytes(); }

 private:
  std::vector<std::size_t> shape_;
  device::Memory memory_;
};

// ---- What becomes of neighbours ------------------------------------------------------------

// An array that may be left out.
struct OptionalView {
  View view;
  bool given = false;

  OptionalView(const py::object& object, const char* name) : given(!object.is_none()) {
    if (given) view = view_of(object, name);
  }
};

// What is made of neighbours, before it is known whose they are.
class BoundAggregation {
 public:
  BoundAggregation(const py::sequence& residuals, double sigma, std::size_t columns,
                   double strength, const py::object& strengths, const py::object& outputs,
                   const std::string& output_kind, double temperature, double output_value,
                   bool interpolate, const py::object& row_weights, const device::DeviceGate* gate,
                   const py::object& classes, const py::object& select,
                   const std::optional<std::string>& map, double floor, bool argmax,
                   const py::object& class_labels)
      : strengths_(strengths, "strengths"),
        outputs_(outputs, "outputs"),
        select_(select, "select"),
        names_(class_labels, "class_labels"),
        argmax_(argmax),
        kept_{residuals,      strengths, outputs, row_weights,
              py::cast(gate), classes,   select,  class_labels} {
    require(columns > 0, "columns must be 1 or more");
    request_.columns = columns;
    request_.sigma = sigma;
    request_.strength = strength;
    request_.interpolate = interpolate;
    request_.temperature = temperature;
    request_.output_value = output_value;
    request_.gate = gate;
    take_residuals(residuals);
    if (!row_weights.is_none()) take_weights(row_weights);
    if (!classes.is_none()) take_classes(classes);
    take_outputs(output_kind);
    check_gate();
    if (map) take_map(*map, floor);
    require(!argmax || !select_.given, "argmax takes all columns: select must be None");
    require(argmax || !names_.given, "class_labels are for argmax");
  }

  // Returns what is made of the neighbours of q queries, of which so many rows of each segment are
  // asked. The arguments keep what it points to.
  DeviceAggregate of(std::size_t q, const std::vector<std::size_t>& rows, int device,
                     const py::object& out) const {
    DeviceAggregate request = request_;
    request.q = q;
    request.rows = rows;
    check_rows(rows, device);
    if (strengths_.given) {
      require(strengths_.view.dtype == "float64" && has_shape(strengths_, {q}),
              "strengths must be float64 (q,)");
      request.strengths = strengths_.view.placed<const double>();
    }
    if (outputs_.given) {
      require(has_shape(outputs_, {q, request.columns}), "outputs must be (q, columns)");
      request.outputs = outputs_.view.placed<const void>();
    }
    if (select_.given) take_select(request);
    take_out(request, out);
    return request;
  }

  std::size_t segments() const { return all_rows_.size(); }
  // Returns how many rows each segment has.
  std::vector<std::size_t> rows() const {
    std::vector<std::size_t> counts;
    for (const device::RowArrays* each : all_rows_) counts.push_back(each->n());
    return counts;
  }

 private:
  static bool has_shape(const OptionalView& array, const std::vector<std::size_t>& shape) {
    return array.view.shape == shape;
  }

  // Takes the rows of one kind. Returns whether they are of that kind.
  template <class Rows>
  bool take_kind(const py::sequence& residuals, std::vector<const Rows*>& taken) {
    if (residuals.empty() || !py::isinstance<Rows>(residuals[0])) return false;
    for (const py::handle& each : residuals) {
      require(py::isinstance<Rows>(each), "residuals must be of one kind");
      taken.push_back(each.cast<const Rows*>());
      require(taken.back()->columns() == request_.columns,
              ("residuals must have " + std::to_string(request_.columns) + " columns").c_str());
      all_rows_.push_back(taken.back());
    }
    return true;
  }
  void take_residuals(const py::sequence& residuals) {
    const bool known = take_kind(residuals, request_.dense) ||
                       take_kind(residuals, request_.sparse) ||
                       take_kind(residuals, request_.labels) || residuals.empty();
    if (!known)
      throw py::type_error("residuals must be DenseRows, SparseRows or LabelRows, got " +
                           std::string(py::str(py::type::of(residuals[0]))));
    for (const auto* each : request_.dense)
      require(each->type() == request_.dense[0]->type(), "residuals must be of one dtype");
    for (const auto* each : request_.sparse)
      require(each->type() == request_.sparse[0]->type() &&
                  each->width() == request_.sparse[0]->width(),
              "residuals must be of one dtype and width");
  }
  void take_weights(const py::sequence& weights) {
    for (const py::handle& each : weights) {
      const bool ones = py::isinstance<py::int_>(each);
      request_.weights.push_back(ones ? nullptr : each.cast<const device::RowWeights*>());
    }
    require(request_.weights.size() == segments(), "row_weights must be of all segments");
  }
  void take_classes(const py::sequence& classes) {
    for (const py::handle& each : classes) {
      request_.classes.push_back(each.cast<const device::RowLabels*>());
      require(request_.classes.back()->columns() == request_.columns,
              "classes must have as many columns as residuals");
    }
    require(request_.classes.size() == segments(), "classes must be of all segments");
  }
  void take_outputs(const std::string& kind) {
    using Kind = device::OutputKind;
    request_.output_kind = choice<Kind>(kind, {{"none", Kind::none},
                                               {"logits", Kind::logits},
                                               {"probabilities", Kind::probabilities},
                                               {"values", Kind::values},
                                               {"constant", Kind::constant}});
    const bool read = request_.output_kind != Kind::none && request_.output_kind != Kind::constant;
    require(read == outputs_.given,
            read ? "outputs are missing" : "outputs are for other kinds than none and constant");
    if (read) request_.output_type = number_type(outputs_.view.dtype);
  }
  void check_gate() const {
    if (request_.gate == nullptr) return;
    const bool has_base = request_.output_kind != device::OutputKind::none;
    require(!strengths_.given, "strengths and a gate exclude each other");
    require(has_base || !request_.gate->looks_at(device::Feature::confidence),
            "a gate that looks at confidence needs outputs");
    require(!request_.classes.empty() || !request_.gate->looks_at(device::Feature::agreement),
            "a gate that looks at agreement needs classes");
  }
  void take_map(const std::string& name, double floor) {
    using Kind = SimplexMap::Kind;
    SimplexMap map;
    map.kind = choice<Kind>(
        name, {{"clip", Kind::clip}, {"project", Kind::project}, {"keep", Kind::keep}});
    map.floor = floor;
    require(map.kind != Kind::keep || request_.output_kind != device::OutputKind::none,
            "the map 'keep' needs outputs");
    request_.map = map;
  }

  void check_rows(const std::vector<std::size_t>& rows, int device) const {
    require(rows.size() == segments(), "residuals must be of all segments");
    const auto check = [&](const device::RowArrays* each, std::size_t n) {
      if (each == nullptr) return;
      require(each->device() == device && each->n() >= n,
              "residuals, row_weights and classes must be on the call's device, with as many rows "
              "as are searched");
    };
    for (std::size_t s = 0; s < rows.size(); ++s) {
      check(all_rows_[s], rows[s]);
      if (!request_.weights.empty()) check(request_.weights[s], rows[s]);
      if (!request_.classes.empty()) check(request_.classes[s], rows[s]);
    }
    require(request_.gate == nullptr || request_.gate->device() == device,
            "the gate must be on the call's device");
  }
  void take_select(DeviceAggregate& request) const {
    const View& view = select_.view;
    const std::size_t axes = view.shape.size();
    require(view.dtype == "int64" && (axes == 1 || (axes == 2 && view.extent(0) == request.q)),
            "select must be int64 (t,) or (q, t)");
    request.select = view.placed<const std::int64_t>();
    request.select_shared = axes == 1;
    request.selected = view.extent(axes - 1);
    static constexpr std::int64_t kNone = 0;
    if (request.select.address == nullptr) request.select.address = &kNone;  // it is empty
    if (view.on_device) return;
    const std::size_t count = request.selected * (axes == 1 ? 1 : request.q);
    for (std::size_t i = 0; i < count; ++i)
      if (static_cast<std::uint64_t>(request.select.address[i]) >= request.columns)
        throw py::index_error("column " + std::to_string(request.select.address[i]) +
                              " is not one of the columns 0 to " +
                              std::to_string(request.columns - 1));
  }
  void take_out(DeviceAggregate& request, const py::object& out) const {
    if (!argmax_) {
      request.out = checked(out, "out", "float64", {request.q, request.width()}).placed<double>();
      return;
    }
    request.largest = checked(out, "out", "int64", {request.q}).placed<std::int64_t>();
    if (!names_.given) return;
    require(names_.view.dtype == "int64" && has_shape(names_, {request.columns}),
            "class_labels must be int64 (columns,)");
    request.names = names_.view.placed<const std::int64_t>();
  }

  DeviceAggregate request_;
  std::vector<const device::RowArrays*> all_rows_;
  OptionalView strengths_, outputs_, select_, names_;
  bool argmax_;
  std::vector<py::object> kept_;
};

std::vector<std::size_t> rows_searched(const BoundDeviceSearch& search) {
  std::vector<std::size_t> rows;
  for (const auto& segment : search.request.segments) rows.push_back(segment.n);
  return rows;
}

void correct_python(const BoundDeviceSearch& search, const BoundAggregation& aggregation,
                    const py::object& out, const std::optional<std::vector<std::size_t>>& rows,
                    std::size_t forced_queries) {
  const std::vector<std::size_t> all = rows ? *rows : rows_searched(search);
  require(std::accumulate(all.begin(), all.end(), std::size_t{0}) >= search.request.rows(),
          "rows must be those of all segments that are searched");
  const DeviceAggregate request = aggregation.of(search.request.q, all, search.request.device, out);
  without_gil(
      [&](const auto& poll) { device::correct(search.request, request, forced_queries, poll); });
}

void aggregate_python(const BoundAggregation& aggregation, const py::object& distances,
                      const py::object& positions, const py::object& out,
                      const std::optional<std::vector<std::size_t>>& rows,
                      const std::string& metric, int device, std::uintptr_t stream,
                      std::size_t workspace_bytes, std::size_t forced_queries) {
  const View values = view_of(distances, "distances"), places = view_of(positions, "positions");
  require(values.shape.size() == 2 && values.dtype == "float64" && places.dtype == "int64" &&
              values.shape == places.shape,
          "distances must be float64 (q, k), and positions int64 of the same shape");
  device::GivenNeighbours given;
  given.values = values.placed<const double>();
  given.positions = places.placed<const std::int64_t>();
  given.k = values.extent(1);
  given.products = metric == "inner_product";
  const DeviceAggregate request =
      aggregation.of(values.extent(0), rows ? *rows : aggregation.rows(), device, out);
  const device::DeviceCall call = {device, {stream}, workspace_bytes, forced_queries};
  without_gil([&](const auto& poll) { device::aggregate(request, given, call, poll); });
}

// Adds what all rows of segments have.
template <class Rows>
py::class_<Rows> rows_class(py::module_& module, const char* name, const char* doc) {
  py::class_<Rows> made(module, name, py::module_local(), doc);
  made.def("__len__", [](const Rows& rows) { return rows.n(); })
      .def_property_readonly("nbytes", [](const Rows& rows) { return rows.bytes(); })
      .def_property_readonly("device", [](const Rows& rows) { return rows.device(); });
  return made;
}

}  // namespace

void register_device_aggregate(py::module_& module) {
  using namespace py::literals;
  rows_class<device::DenseResiduals>(module, "DenseRows", "All residuals of a segment.")
      .def(py::init(&dense_from), "device"_a, "dtype"_a, "columns"_a, "stream"_a = py::none())
      .def("extend", &extend_dense, "residuals"_a,
           "Brings those of the rows (n, columns) that are not there yet.");
  rows_class<device::SparseResiduals>(module, "SparseRows", "A few residuals of each row.")
      .def(py::init(&sparse_from), "device"_a, "dtype"_a, "columns"_a, "width"_a,
           "stream"_a = py::none())
      .def("extend", &extend_sparse, py::arg("index").noconvert(), "value"_a,
           py::arg("rest").noconvert(),
           "Brings those of the rows (n, width) that are not there yet; ValueError for an index "
           "that is no class.");
  rows_class<device::RowLabels>(module, "LabelRows", "Classes, as one-hot rows.")
      .def(py::init(&labels_from), "device"_a, "columns"_a, "stream"_a = py::none())
      .def("extend", &extend_labels, py::arg("labels").noconvert(),
           "Brings those of the labels (n,) that are not there yet; ValueError for one that is no "
           "class.");
  rows_class<device::RowWeights>(module, "RowWeights", "Weights that rows have of their own.")
      .def(py::init(&weights_from), "device"_a, "stream"_a = py::none())
      .def("extend", &extend_weights, py::arg("weights").noconvert(),
           "Brings those of the weights (n,) that are not there yet.");
  py::class_<device::DeviceGate>(module, "Gate", py::module_local(),
                                 "Steps (feature, edges, factors) of the strength of queries.")
      .def(py::init(&gate_from), "device"_a, "steps"_a)
      .def_property_readonly("features", &feature_names)
      .def_property_readonly("nbytes", &device::DeviceGate::bytes)
      .def_property_readonly("device", &device::DeviceGate::device);
  py::class_<KeptNumbers>(module, "Numbers", py::module_local(),
                          "Numbers (m,) of int64 that stay on a device.")
      .def(py::init<int, const Array<std::int64_t>&>(), "device"_a, py::arg("numbers").noconvert())
      .def_property_readonly("address", &KeptNumbers::address)
      .def_property_readonly("shape", &KeptNumbers::shape)
      .def_property_readonly("dtype", [](const KeptNumbers&) { return "int64"; })
      .def_property_readonly("nbytes", &KeptNumbers::bytes);
  py::class_<BoundAggregation>(module, "Aggregation", py::module_local(),
                               "What is made of neighbours.")
      .def(py::init<const py::sequence&, double, std::size_t, double, const py::object&,
                    const py::object&, const std::string&, double, double, bool, const py::object&,
                    const device::DeviceGate*, const py::object&, const py::object&,
                    const std::optional<std::string>&, double, bool, const py::object&>(),
           "residuals"_a, "sigma"_a, "columns"_a, py::kw_only(), "strength"_a = 1.0,
           "strengths"_a = py::none(), "outputs"_a = py::none(), "output_kind"_a = "none",
           "temperature"_a = 1.0, "output_value"_a = 0.0, "interpolate"_a = false,
           "row_weights"_a = py::none(), "gate"_a = py::none(), "classes"_a = py::none(),
           "select"_a = py::none(), "map"_a = py::none(), "floor"_a = 0.0, "argmax"_a = false,
           "class_labels"_a = py::none());
  module.def("correct", &correct_python, "search"_a, "aggregation"_a, "out"_a, py::kw_only(),
             "rows"_a = py::none(), "forced_queries"_a = 0,
             "Fills out, (q, columns), (q, t) or (q,), with what becomes of the neighbours of a "
             "search; rows says how many rows of each segment count, if other segments were "
             "searched than have residuals.");
  module.def("aggregate", &aggregate_python, "aggregation"_a, "distances"_a, "positions"_a, "out"_a,
             py::kw_only(), "rows"_a = py::none(), "metric"_a = "euclidean", "device"_a = 0,
             "stream"_a = 0, "workspace_bytes"_a = 0, "forced_queries"_a = 0,
             "Does the same with neighbours (q, k) that are given.");
}

}  // namespace resmem
