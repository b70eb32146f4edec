#include "../index/cascade/cascade.h"

#include <cmath>

#include "search_request.h"

namespace resmem {
namespace {

std::unique_ptr<Cascade> build_python(const py::tuple& segment, std::size_t d, std::size_t depth,
                                      std::size_t clusters, bool coded_rows, std::size_t threads,
                                      const std::string& isa, const std::string& metric) {
  const Segment rows = segment_from(segment, d);
  const KernelTable& kernels = select_kernels(isa);
  const CascadeShape shape{metric_named(metric), depth, clusters, coded_rows};
  return without_gil([&](Interrupt& interrupt) {
    return std::make_unique<Cascade>(
        build_cascade(rows, d, shape, kernels, thread_count(threads), interrupt));
  });
}

// In and out of arrays, each flat and of one of a few types; `visit(name, member)` is told of all.
template <class Of, class Visit>
void for_each_array(Of& cascade, const Visit& visit) {
  visit("offset", cascade.projection.offset);
  visit("weight", cascade.projection.weight);
  visit("bias", cascade.projection.bias);
  visit("origin", cascade.projection.origin);
  visit("centres", cascade.centres);
  visit("chunks", cascade.chunks);
  visit("steps", cascade.steps);
  visit("rows", cascade.rows);
  visit("panels", cascade.panels);
  visit("init", cascade.init);
  visit("codes", cascade.codes);
  visit("coded", cascade.coded);
}

// Every number that is not in an array, as float64: all are below 2^53.
template <class Of, class Visit>
void for_each_number(Of& cascade, const Visit& visit) {
  visit(cascade.n);
  visit(cascade.depth);
  visit(cascade.code_depth);
  visit(cascade.clusters);
  visit(cascade.points.metric);
  visit(cascade.points.d);
  visit(cascade.points.longest);
  visit(cascade.projection.d);
  visit(cascade.projection.axes);
  visit(cascade.projection.has_tail);
  visit(cascade.projection.tail_centre);
  visit(cascade.projection.departure);
  visit(cascade.projection.offset_norm);
  visit(cascade.scale);
  visit(cascade.code_sum);
  visit(cascade.largest_square);
}

// How arrays are typed outside: what has a type of its own here is 32-bit words or bytes there.
template <class T>
struct Outside {
  using type = T;
};
template <>
struct Outside<std::int8_t> {
  using type = std::uint8_t;
};
template <>
struct Outside<std::uint32_t> {
  using type = std::int32_t;
};
template <>
struct Outside<Chunk> {
  using type = std::int32_t;
};
template <>
struct Outside<CodedRow> {
  using type = float;
};

template <class Member>
using Held = std::decay_t<decltype(std::declval<Member&>()[0])>;

py::dict arrays_of(const py::object& self) {
  const auto& cascade = self.cast<const Cascade&>();
  py::dict arrays;
  for_each_array(cascade, [&](const char* name, const auto& member) {
    using T = Held<decltype(member)>;
    using Out = typename Outside<T>::type;
    const std::size_t count = member.size() * (sizeof(T) / sizeof(Out));
    py::array_t<Out> view(static_cast<py::ssize_t>(count),
                          reinterpret_cast<const Out*>(member.data()), self);
    view.attr("flags").attr("writeable") = false;
    arrays[name] = view;
  });
  std::vector<double> numbers;
  for_each_number(cascade, [&](auto value) { numbers.push_back(static_cast<double>(value)); });
  arrays["numbers"] = py::array_t<double>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
  return arrays;
}

template <class T>
void take(Mappable<T>& member, const T* data, std::size_t size) {
  member.map(data, size);
}
template <class T>
void take(std::vector<T>& member, const T* data, std::size_t size) {
  member.assign(data, data + size);
}

// What arrays_of() gave, perhaps from a file: small arrays are copied, large ones stay where they
// are, and the caller keeps them.
std::unique_ptr<Cascade> from_arrays(const py::dict& arrays) {
  auto cascade = std::make_unique<Cascade>();
  require(arrays.contains("numbers"), "the numbers of a cascade are missing");
  const auto given = exact_array<double>(arrays["numbers"], "contiguous float64 numbers");
  std::size_t next = 0;
  for_each_number(*cascade, [&](auto& value) {
    using T = std::decay_t<decltype(value)>;
    require(next < static_cast<std::size_t>(given.size()), "too few numbers of a cascade");
    const double number = given.data()[next++];
    if constexpr (!std::is_same_v<T, double>) {  // a size, a metric or a truth value
      const double beyond = std::is_same_v<T, bool> ? 2 : std::is_enum_v<T> ? 4 : 0x1p48;
      require(number >= 0 && number < beyond && number == std::floor(number),
              "a number of a cascade is out of range");
    }
    value = static_cast<T>(number);
  });
  require(next == static_cast<std::size_t>(given.size()), "too many numbers of a cascade");
  for_each_array(*cascade, [&](const char* name, auto& member) {
    using T = Held<decltype(member)>;
    using Out = typename Outside<T>::type;
    constexpr std::size_t kEach = sizeof(T) / sizeof(Out);
    require(arrays.contains(name), "an array of a cascade is missing");
    const auto array = exact_array<Out>(arrays[name], "the contiguous arrays of a cascade");
    const auto size = static_cast<std::size_t>(array.size());
    require(size % kEach == 0, "an array of a cascade is cut off");
    take(member, reinterpret_cast<const T*>(array.data()), size / kEach);
  });
  cascade->complete();
  return cascade;
}

}  // namespace

void register_cascade(py::module_& module) {
  using namespace py::literals;
  py::class_<Cascade>(module, "Cascade", "What makes exact search of some rows fast.")
      .def(py::init(&build_python), "segment"_a, "d"_a, "depth"_a, "clusters"_a,
           "coded_rows"_a = true, "threads"_a = 0, "isa"_a = "", "metric"_a = "euclidean")
      .def_static("of", &from_arrays, "arrays"_a, py::keep_alive<0, 1>(),
                  "A cascade of arrays() of another. It reads the large ones where they lie.")
      .def(
          "arrays", [](const py::object& self) { return arrays_of(self); },
          "Everything in it, by name: read-only views and a few numbers.")
      .def("__len__", [](const Cascade& cascade) { return cascade.n; })
      .def_readonly("depth", &Cascade::depth)
      .def_readonly("clusters", &Cascade::clusters)
      .def_property_readonly("coded_rows", [](const Cascade& c) { return c.code_depth > 0; })
      .def_readonly("scale", &Cascade::scale, "Codes per unit of length.")
      .def_property_readonly("dimensions", [](const Cascade& c) { return c.points.d; })
      .def_property_readonly("euclidean",
                             [](const Cascade& c) { return c.points.serve(Metric::euclidean); })
      .def_property_readonly(
          "longest", [](const Cascade& c) { return c.points.longest; },
          "No row is longer (of inner products; else 0).")
      .def_property_readonly(
          "axes",
          [](const Cascade& c) {
            const std::vector<std::size_t> shape{c.projection.axes, c.projection.d};
            return Array<float>(shape, c.projection.weight.data());
          })
      .def_property_readonly("nbytes", &Cascade::bytes)
      .def("digest", &Cascade::digest, "A hash of everything in it.");
}

}  // namespace resmem
