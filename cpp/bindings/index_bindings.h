// Turns an index of any kind into named arrays, and named arrays into an index.
//
// A kind tells in `IndexArrays<Kind>` what it consists of, and this file does the rest.
#pragma once

#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/mappable.h"
#include "../index/row_index.h"
#include "execution.h"
#include "search_request.h"

namespace resmem {

// Each kind of index defines
//   name:                           its name in messages, with an article
//   for_each_array(index, visit):   visit("name", member) of each array, vector or Mappable
//   for_each_number(index, visit):  visit("name", member) of all else: sizes, truth values, metrics
//                                   and float64; each is below 2^53, so that float64 holds it. Old
//                                   files rely on their order.
template <class Kind>
struct IndexArrays;

// The type of the elements that Python sees. One element of T takes a whole number of them.
template <class T>
struct PythonElement {
  using type = T;
};
template <>
struct PythonElement<std::int8_t> {
  using type = std::uint8_t;
};
template <>
struct PythonElement<std::uint32_t> {
  using type = std::int32_t;
};

template <class Member>
using ElementOf = std::decay_t<decltype(std::declval<Member&>()[0])>;

// Returns everything in an index by name: arrays as read-only views, which keep the index alive,
// and numbers as float64 (1,).
template <class Kind>
py::dict arrays_of(const py::object& self) {
  const auto& index = self.cast<const Kind&>();
  py::dict arrays;
  IndexArrays<Kind>::for_each_array(index, [&](const char* name, const auto& member) {
    using T = ElementOf<decltype(member)>;
    using Out = typename PythonElement<T>::type;
    const std::size_t count = member.size() * (sizeof(T) / sizeof(Out));
    py::array_t<Out> view(static_cast<py::ssize_t>(count),
                          reinterpret_cast<const Out*>(member.data()), self);
    view.attr("flags").attr("writeable") = false;
    arrays[name] = view;
  });
  IndexArrays<Kind>::for_each_number(index, [&](const char* name, auto value) {
    const double number = static_cast<double>(value);
    arrays[name] = py::array_t<double>(1, &number);
  });
  return arrays;
}

template <class T>
void take_array(Mappable<T>& member, const T* data, std::size_t size) {
  member.map(data, size);
}
template <class T>
void take_array(std::vector<T>& member, const T* data, std::size_t size) {
  member.assign(data, data + size);
}

// Returns the number as T, or refuses it: a file may hold any number.
template <class T>
T number_as(double number, const std::string& message) {
  if constexpr (!std::is_same_v<T, double>) {
    const double beyond = std::is_same_v<T, bool> ? 2 : std::is_enum_v<T> ? 4 : 0x1p48;
    require(number >= 0 && number < beyond && number == std::floor(number), message.c_str());
  }
  return static_cast<T>(number);
}

// Files written before numbers had names hold them in one array, "numbers", in the order of
// for_each_number().
template <class Kind>
py::dict with_named_numbers(const py::dict& arrays) {
  if (!arrays.contains("numbers")) return arrays;
  const auto numbers = exact_array<double>(arrays["numbers"], "contiguous float64 numbers");
  py::dict named;
  for (const auto& [name, array] : arrays) named[name] = array;
  py::ssize_t at = 0;
  const Kind order;
  IndexArrays<Kind>::for_each_number(order, [&](const char* name, auto) {
    if (at < numbers.size()) named[name] = py::array_t<double>(1, numbers.data() + at);
    ++at;
  });
  require(
      at == numbers.size(),
      (std::string(IndexArrays<Kind>::name) + " has " + std::to_string(at) + " numbers").c_str());
  return named;
}

// Makes an index of what arrays_of() gave, perhaps from a file. Vectors are copied. What is
// mappable stays where it is, and the caller keeps it alive.
template <class Kind>
std::unique_ptr<Kind> index_from_arrays(const py::dict& given) {
  const std::string kind = IndexArrays<Kind>::name;
  const py::dict arrays = with_named_numbers<Kind>(given);
  const auto array_named = [&](const char* name) -> py::object {
    require(arrays.contains(name), (std::string(name) + " of " + kind + " is missing").c_str());
    return arrays[name];
  };
  auto index = std::make_unique<Kind>();
  IndexArrays<Kind>::for_each_number(*index, [&](const char* name, auto& value) {
    const auto number = exact_array<double>(array_named(name), "a contiguous float64 number");
    require(number.size() == 1, (std::string(name) + " of " + kind + " is one number").c_str());
    value = number_as<std::decay_t<decltype(value)>>(
        *number.data(), std::string(name) + " of " + kind + " is out of range");
  });
  IndexArrays<Kind>::for_each_array(*index, [&](const char* name, auto& member) {
    using T = ElementOf<decltype(member)>;
    using In = typename PythonElement<T>::type;
    constexpr std::size_t kEach = sizeof(T) / sizeof(In);
    const auto array =
        exact_array<In>(array_named(name), ("the contiguous arrays of " + kind).c_str());
    const auto size = static_cast<std::size_t>(array.size());
    require(size % kEach == 0, ("an array of " + kind + " is cut off").c_str());
    take_array(member, reinterpret_cast<const T*>(array.data()), size / kEach);
  });
  index->complete();
  return index;
}

// Declares the class of a kind, with its arrays. What all kinds share comes with RowIndex.
template <class Kind>
py::class_<Kind, RowIndex> index_class(py::module_& module, const char* name, const char* doc) {
  using namespace py::literals;
  return py::class_<Kind, RowIndex>(module, name, doc)
      .def_static("of", &index_from_arrays<Kind>, "arrays"_a, py::keep_alive<0, 1>(),
                  "An index of arrays() of another. It reads the large ones where they lie.")
      .def("arrays", &arrays_of<Kind>,
           "Everything in it, by name: read-only views and a few numbers.");
}

}  // namespace resmem
