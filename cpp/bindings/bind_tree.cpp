#include "../index/tree/tree.h"

#include <cmath>

#include "search_request.h"

namespace resmem {
namespace {

std::unique_ptr<Tree> build_python(const py::tuple& segment, std::size_t d, std::size_t threads,
                                   std::size_t leaf, const std::string& isa) {
  const Segment rows = segment_from(segment, d);
  const KernelTable& kernels = select_kernels(isa);
  return without_gil([&](Interrupt& interrupt) {
    return std::make_unique<Tree>(
        build_tree(rows, d, leaf, kernels, thread_count(threads), interrupt));
  });
}

constexpr std::size_t kSplitWords = sizeof(Split) / sizeof(std::int32_t);

template <class T>
py::array view(const T* data, std::size_t size, const py::object& owner) {
  py::array_t<T> array(static_cast<py::ssize_t>(size), data, owner);
  array.attr("flags").attr("writeable") = false;
  return std::move(array);
}

py::dict arrays_of(const py::object& self) {
  const auto& tree = self.cast<const Tree&>();
  py::dict arrays;
  arrays["rows"] =
      view(reinterpret_cast<const std::int32_t*>(tree.rows.data()), tree.rows.size(), self);
  arrays["splits"] = view(reinterpret_cast<const std::int32_t*>(tree.splits.data()),
                          tree.splits.size() * kSplitWords, self);
  arrays["box"] = view(tree.box.data(), tree.box.size(), self);
  const std::array<double, 3> numbers{static_cast<double>(tree.n), static_cast<double>(tree.d),
                                      static_cast<double>(tree.height)};
  arrays["numbers"] = py::array_t<double>(3, numbers.data());
  return arrays;
}

// What arrays_of() gave, perhaps from a file: the large ones stay where they are, and
// the caller keeps them.
std::unique_ptr<Tree> from_arrays(const py::dict& arrays) {
  for (const char* name : {"rows", "splits", "box", "numbers"})
    require(arrays.contains(name), "an array of a tree is missing");
  auto tree = std::make_unique<Tree>();
  const auto numbers = exact_array<double>(arrays["numbers"], "contiguous float64 numbers");
  const std::array<std::size_t*, 3> members{&tree->n, &tree->d, &tree->height};
  require(numbers.size() == 3, "a tree has three numbers");
  for (std::size_t i = 0; i < members.size(); ++i) {
    const double number = numbers.data()[i];
    require(number >= 0 && number < 0x1p48 && number == std::floor(number),
            "a number of a tree is out of range");
    *members[i] = static_cast<std::size_t>(number);
  }
  const auto rows = exact_array<std::int32_t>(arrays["rows"], "contiguous int32 rows of a tree");
  tree->rows.map(reinterpret_cast<const std::uint32_t*>(rows.data()),
                 static_cast<std::size_t>(rows.size()));
  const auto splits = exact_array<std::int32_t>(arrays["splits"], "contiguous int32 splits");
  const auto words = static_cast<std::size_t>(splits.size());
  require(words % kSplitWords == 0, "an array of a tree is cut off");
  tree->splits.map(reinterpret_cast<const Split*>(splits.data()), words / kSplitWords);
  const auto box = exact_array<float>(arrays["box"], "a contiguous float32 box");
  tree->box.assign(box.data(), box.data() + box.size());
  tree->complete();
  return tree;
}

}  // namespace

void register_tree(py::module_& module) {
  using namespace py::literals;
  py::class_<Tree>(module, "Tree", "What makes exact search of some rows of few dimensions fast.")
      .def(py::init(&build_python), "segment"_a, "d"_a, "threads"_a = 0, "leaf"_a = 0, "isa"_a = "")
      .def_static("of", &from_arrays, "arrays"_a, py::keep_alive<0, 1>(),
                  "A tree of arrays() of another. It reads the large ones where they lie.")
      .def(
          "arrays", [](const py::object& self) { return arrays_of(self); },
          "Everything in it, by name: read-only views and a few numbers.")
      .def("__len__", [](const Tree& tree) { return tree.n; })
      .def_readonly("dimensions", &Tree::d)
      .def_property_readonly("leaves", &Tree::leaves)
      .def_property_readonly("nbytes", &Tree::bytes)
      .def("digest", &Tree::digest, "A hash of everything in it.");
}

}  // namespace resmem
