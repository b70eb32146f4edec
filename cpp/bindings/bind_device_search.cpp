#include "../../cuda/slabs.h"
#include "bind_device.h"
#include "device_request.h"
#include "search_request.h"

namespace resmem {
namespace {

std::unique_ptr<device::DeviceRows> rows_from(int device, const std::string& dtype, std::size_t d,
                                              const std::string& metric,
                                              const std::optional<std::uintptr_t>& stream,
                                              std::size_t least_coded) {
  require(d > 0, "rows must have d >= 1");
  return std::make_unique<device::DeviceRows>(source_from(device, stream), number_type(dtype), d,
                                              metric_named(metric), least_coded);
}

// Keeps an object of Python that any thread may drop.
std::shared_ptr<const void> kept(const py::object& object) {
  const auto drop = [](const PyObject* held) {
    const py::gil_scoped_acquire acquired;
    Py_DECREF(const_cast<PyObject*>(held));
  };
  return {static_cast<const PyObject*>(object.inc_ref().ptr()), drop};
}

void extend_python(device::DeviceRows& rows, const py::object& keys,
                   const std::optional<Array<std::int64_t>>& ids, std::int64_t first_id,
                   std::optional<std::size_t> most_bytes) {
  const View view = view_of(keys, "keys");
  require(view.shape.size() == 2 && view.extent(1) == rows.dimensions() &&
              number_type(view.dtype) == rows.type(),
          "keys must be (n, d), of the dtype of the rows");
  device::GivenRows given;
  given.keys = view.address;
  given.n = view.extent(0);
  given.on_device = view.on_device;
  given.first_id = first_id;
  given.most_bytes = most_bytes;
  if (!view.on_device) given.keeper = kept(keys);
  if (ids) {
    require(ids->ndim() == 1 && extent(*ids, 0) == given.n, "ids must be (n,)");
    given.ids = ids->data();
  }
  const GilRelease released;
  const FpGuard guard;
  rows.extend(given);
}

device::Attribute attribute_named(const std::string& name) {
  return choice<device::Attribute>(
      name, {{"times", device::Attribute::time}, {"groups", device::Attribute::group}});
}

void bring_python(device::DeviceRows& rows, const std::string& attribute,
                  const Array<std::int64_t>& values) {
  require(values.ndim() == 1 && extent(values, 0) <= rows.n(),
          "values must be (n,), of rows that are there");
  const device::Attribute which = attribute_named(attribute);
  const std::size_t n = extent(values, 0);
  const GilRelease released;
  rows.bring(which, values.data(), n);
}

void remove_python(device::DeviceRows& rows, const Array<std::int64_t>& numbers,
                   const Array<std::int64_t>& stamps) {
  require(numbers.ndim() == 1 && stamps.ndim() == 1 && numbers.size() == stamps.size(),
          "rows and stamps must be (m,)");
  const auto n = static_cast<std::int64_t>(rows.n());
  for (py::ssize_t i = 0; i < numbers.size(); ++i)
    require(numbers.data()[i] >= 0 && numbers.data()[i] < n, "rows must be those of the segment");
  const std::size_t count = extent(numbers, 0);
  const GilRelease released;
  const FpGuard guard;
  rows.remove(numbers.data(), stamps.data(), count);
}

py::dict as_dict(const device::DeviceStats& stats) {
  py::dict result;
  result["pairs_filtered"] = stats.pairs_filtered;
  result["pairs_streamed"] = stats.pairs_streamed;
  result["hits"] = stats.hits;
  result["rescored"] = stats.rescored;
  result["compared"] = stats.compared;
  result["given_up"] = stats.given_up;
  result["query_blocks"] = stats.query_blocks;
  result["slabs"] = stats.slabs;
  result["slab_bytes"] = stats.slab_bytes;
  result["devices"] = stats.devices;
  return result;
}

// Memory for results, which goes back to its stream with the last array that uses it.
class Results {
 public:
  Results(std::size_t bytes, int device, std::uintptr_t stream)
      : memory_({device, device::StreamHandle{stream}}, bytes) {}
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(memory_.of<void>()); }

 private:
  device::Memory memory_;
};

void take_queries(device::DeviceSearch& request, const View& queries) {
  require(queries.shape.size() == 2 && queries.extent(1) > 0, "queries must be (q, d), d >= 1");
  require(queries.dtype == "float32" || queries.dtype == "float64",
          "queries must be float32 or float64");
  request.queries = queries.address;
  request.query_type = number_type(queries.dtype);
  request.queries_on_device = queries.on_device;
  request.q = queries.extent(0);
  request.d = queries.extent(1);
}

void take_segments(device::DeviceSearch& request, const py::sequence& segments) {
  using Triple = std::tuple<const device::DeviceRows*, std::size_t, std::size_t>;
  for (const py::handle& each : segments) {
    const auto [searched, n, position] = each.cast<Triple>();
    const device::DeviceRows& rows = *searched;
    const bool same_order = rows.metric() == request.metric ||
                            (is_euclidean(rows.metric()) && is_euclidean(request.metric));
    require(rows.dimensions() == request.d && same_order,
            "segments must have the queries' dimensions and the order of the search's metric");
    require((rows.type() == NumberType::float64) == (request.query_type == NumberType::float64),
            "queries must be float64 for float64 keys, and for no other");
    require(n <= rows.n(), "segments must have as many rows");
    request.segments.push_back({&rows, n, position});
  }
}

void take_outputs(device::DeviceSearch& request, const py::object& values, const py::object& ids,
                  const py::object& positions) {
  const std::vector<std::size_t> shape{request.q, request.k};
  const View value = checked(values, "values", "float64", shape);
  const View id = checked(ids, "ids", "int64", shape);
  request.values = value.of<double>();
  request.ids = id.of<std::int64_t>();
  request.output_on_device = value.on_device;
  bool together = value.on_device == id.on_device;
  if (!positions.is_none()) {
    const View position = checked(positions, "positions", "int64", shape);
    request.positions = position.of<std::int64_t>();
    together = together && value.on_device == position.on_device;
  }
  require(together, "outputs must be on one side, the host's or the device's");
}

// Takes numbers of each query, (q, m), where they lie.
device::QueryNumbers numbers_from(const py::object& object, const char* name, std::size_t queries) {
  if (object.is_none()) return {};
  const View view = view_of(object, name);
  require(view.shape.size() == 2 && view.extent(0) == queries && view.dtype == "int64",
          (std::string(name) + " must be int64 (q, m)").c_str());
  return {view.of<std::int64_t>(), view.extent(1), view.on_device};
}

void take_visible(device::DeviceSearch& request, const VisibleObjects& visible) {
  request.excluded = numbers_from(visible.exclude, "exclude", request.q);
  request.excluded_groups = numbers_from(visible.exclude_groups, "exclude_groups", request.q);
  if (!visible.before.is_none()) {
    const View view = checked(visible.before, "before", "int64", {request.q});
    request.before = {view.of<std::int64_t>(), 1, view.on_device};
  }
  for (const device::DeviceSearch::Searched& segment : request.segments) {
    const std::size_t times = segment.rows->known(device::Attribute::time);
    const std::size_t groups = segment.rows->known(device::Attribute::group);
    require(visible.before.is_none() || times >= segment.n,
            "before needs rows whose times were brought");
    require(visible.exclude_groups.is_none() || groups == 0 || groups >= segment.n,
            "exclude_groups needs the groups of all rows, or of none");
  }
  request.among = among_from(visible.among, request.rows());
}

py::object search_python(const py::object& queries, const py::sequence& segments, std::size_t k,
                         const std::string& metric, const py::object& exclude, std::int64_t version,
                         const py::object& exclude_groups, const py::object& before,
                         const py::object& among, const py::object& values, const py::object& ids,
                         const py::object& positions, int device, std::uintptr_t stream,
                         std::size_t workspace_bytes, std::size_t slab_bytes, device::Lanes* lanes,
                         const device::ForcedSearch& forced, bool counted) {
  BoundDeviceSearch search(queries, segments, k, metric, {exclude, exclude_groups, before, among},
                           version, {device, stream, workspace_bytes, slab_bytes, lanes}, forced);
  take_outputs(search.request, values, ids, positions);
  device::DeviceStats stats;
  without_gil(
      [&](const auto& poll) { device::search(search.request, poll, counted ? &stats : nullptr); });
  return counted ? py::object(as_dict(stats)) : py::none();
}

}  // namespace

BoundDeviceSearch::BoundDeviceSearch(const py::object& queries, const py::sequence& segments,
                                     std::size_t k, const std::string& metric,
                                     const VisibleObjects& visible, std::int64_t version,
                                     const SearchPlace& place, const device::ForcedSearch& forced)
    : kept{queries,        segments,      visible.exclude,      visible.exclude_groups,
           visible.before, visible.among, py::cast(place.lanes)} {
  const View query_view = view_of(queries, "queries");
  request.device = place.device;
  request.metric = metric_named(metric);
  request.k = k;
  request.version = version;
  request.stream.address = place.stream;
  request.workspace_bytes = place.workspace_bytes;
  request.slab_bytes = place.slab_bytes;
  request.lanes = place.lanes;
  request.forced = forced;
  take_queries(request, query_view);
  take_segments(request, segments);
  take_visible(request, visible);
}

void register_device_search(py::module_& module) {
  using namespace py::literals;
  // Two modules may have these classes in one process.
  py::class_<device::ForcedSearch>(module, "ForcedSearch", py::module_local(),
                                   "What tests force of a search.")
      .def(py::init([](std::size_t first_phase, std::size_t capacity, std::size_t queries,
                       std::size_t listed, std::size_t slab_rows) {
             return device::ForcedSearch{first_phase, capacity, queries, listed, slab_rows};
           }),
           "first_phase"_a = 0, "capacity"_a = 0, "queries"_a = 0, "listed"_a = 0,
           "slab_rows"_a = 0,
           "Rows, hits, queries, listed rows and rows of a slab; 0 leaves a number to the search.");
  py::class_<device::DeviceRows>(module, "Rows", py::module_local(),
                                 "The rows of a segment on a device.")
      .def(py::init(&rows_from), "device"_a, "dtype"_a, "d"_a, "metric"_a, "stream"_a = py::none(),
           "least_coded"_a = 1024)
      .def("extend", &extend_python, "keys"_a, py::arg("ids").noconvert() = py::none(),
           "first_id"_a = 0, "most_bytes"_a = py::none(),
           "Brings those of the rows (n, d) that are not there yet. Those that do not fit into\n"
           "`most_bytes`, or by default what is free, stay where they are.")
      .def("remove", &remove_python, py::arg("rows").noconvert(), py::arg("stamps").noconvert(),
           "Marks rows as removed at versions.")
      .def("bring", &bring_python, "attribute"_a, py::arg("values").noconvert(),
           "Brings those of the rows' \"times\" or \"groups\", (n,), that are not there yet.")
      .def("__len__", &device::DeviceRows::n)
      .def_property_readonly("staying", &device::DeviceRows::staying,
                             "How many rows have their keys on the device.")
      .def_property_readonly("nbytes", &device::DeviceRows::bytes)
      .def_property_readonly("device", &device::DeviceRows::device);
  py::class_<device::Lanes>(module, "Lanes", py::module_local(),
                            "Pinned memory, and streams, for searches that bring rows.")
      .def(py::init<>())
      .def_property_readonly("nbytes", &device::Lanes::pinned_bytes);
  py::class_<Results>(module, "Memory", py::module_local(),
                      "Memory of a device for results, given back on its stream.")
      .def(py::init<std::size_t, int, std::uintptr_t>(), "bytes"_a, "device"_a, "stream"_a)
      .def_property_readonly("address", &Results::address);
  module.def(
      "wait_for",
      [](std::uintptr_t stream, std::uintptr_t other, int device) {
        const device::OnDevice here(device);
        device::wait_for(device::StreamHandle{stream}, device::StreamHandle{other});
      },
      "stream"_a, "other"_a, "device"_a, py::call_guard<GilRelease>(),
      "Makes what a stream does from here on wait for what another has been asked up to now.");
  py::class_<BoundDeviceSearch>(module, "Search", py::module_local(),
                                "What `search` is asked for, without arrays for results.")
      .def(py::init([](const py::object& queries, const py::sequence& segments, std::size_t k,
                       const std::string& metric, const py::object& exclude, std::int64_t version,
                       const py::object& exclude_groups, const py::object& before,
                       const py::object& among, int device, std::uintptr_t stream,
                       std::size_t workspace_bytes, std::size_t slab_bytes, device::Lanes* lanes,
                       const device::ForcedSearch& forced) {
             return BoundDeviceSearch(queries, segments, k, metric,
                                      {exclude, exclude_groups, before, among}, version,
                                      {device, stream, workspace_bytes, slab_bytes, lanes}, forced);
           }),
           "queries"_a, "segments"_a, "k"_a, "metric"_a, "exclude"_a = py::none(), "version"_a = 0,
           py::kw_only(), "exclude_groups"_a = py::none(), "before"_a = py::none(),
           "among"_a = py::none(), "device"_a = 0, "stream"_a = 0, "workspace_bytes"_a = 0,
           "slab_bytes"_a = 0, "lanes"_a = static_cast<device::Lanes*>(nullptr),
           py::arg_v("forced", device::ForcedSearch(), "..."));
  module.def(
      "search", &search_python, "queries"_a, "segments"_a, "k"_a, "metric"_a,
      "exclude"_a = py::none(), "version"_a = 0, py::kw_only(), "exclude_groups"_a = py::none(),
      "before"_a = py::none(), "among"_a = py::none(), "values"_a, "ids"_a,
      "positions"_a = py::none(), "device"_a = 0, "stream"_a = 0, "workspace_bytes"_a = 0,
      "slab_bytes"_a = 0, "lanes"_a = static_cast<device::Lanes*>(nullptr),
      py::arg_v("forced", device::ForcedSearch(), "..."), "counted"_a = false,
      "Fills values, ids and positions, (q, k) each; segments are rows, their number and the\n"
      "position of the first, and what queries see is as for the core's search. What really\n"
      "ran, if that is to be counted, which waits for the device.");
}

}  // namespace resmem
