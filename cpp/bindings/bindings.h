// What the binding files share. There is one file a subject, with one register_ function each.
//
// Every function converts and checks first, then releases the GIL; nothing below a released
// GIL touches Python. Arrays arrive as the thin Python layer prepared them: a wrong dtype or
// layout is a TypeError here, never a silent copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "../rows/numbers.h"

namespace resmem {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void register_search(py::module_& module);
void register_indexes(py::module_& module);
void register_cascade(py::module_& module);
void register_tree(py::module_& module);
void register_rows(py::module_& module);
void register_residuals(py::module_& module);
void register_aggregate(py::module_& module);
void register_correct(py::module_& module);
void register_sweep(py::module_& module);
void register_arrays(py::module_& module);
void register_dlpack(py::module_& module);
void register_execution(py::module_& module);
void register_system(py::module_& module);
void register_testing(py::module_& module);

inline void require(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

template <class T>
T choice(const std::string& name, std::initializer_list<std::pair<const char*, T>> choices) {
  std::string known;
  for (const auto& [key, value] : choices) {
    if (name == key) return value;
    known += (known.empty() ? "'" : ", '") + std::string(key) + "'";
  }
  throw py::value_error("expected one of " + known + ", got '" + name + "'");
}

// Returns the object as an array of T, without converting anything. The caller keeps it alive.
template <class T>
Array<T> exact_array(const py::handle& object, const char* expected) {
  if (!py::isinstance<Array<T>>(object))
    throw py::type_error(std::string("expected ") + expected + ", got " +
                         std::string(py::str(py::type::of(object))));
  return py::reinterpret_borrow<Array<T>>(object);
}

inline std::size_t extent(const py::array& array, int axis) {
  return static_cast<std::size_t>(array.shape(axis));
}

inline std::vector<std::size_t> shape_of(const py::array& matrix) {
  return {extent(matrix, 0), extent(matrix, 1)};
}

inline py::dtype float16() { return py::dtype("e"); }

inline bool is_float16(const py::handle& object) {
  if (!py::isinstance<py::array>(object)) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  return array.dtype().equal(float16()) && (array.flags() & py::array::c_style) != 0;
}

// Reads a C-contiguous (n, columns) array of stored numbers. Numbers of bfloat16 come as their
// bits, uint16.
inline Numbers stored_numbers(const py::handle& object, const char* name, std::size_t columns,
                              bool may_be_wide = false) {
  Numbers numbers;
  if (py::isinstance<Array<float>>(object))
    numbers.type = NumberType::float32;
  else if (may_be_wide && py::isinstance<Array<double>>(object))
    numbers.type = NumberType::float64;
  else if (py::isinstance<Array<std::uint16_t>>(object))
    numbers.type = NumberType::bfloat16;
  else if (is_float16(object))
    numbers.type = NumberType::float16;
  else
    throw py::type_error(std::string(name) + " must be C-contiguous float32, float16 or uint16 " +
                         "(the bits of bfloat16), got " +
                         std::string(py::str(py::type::of(object))));
  const auto array = py::reinterpret_borrow<py::array>(object);
  require(array.ndim() == 2 && extent(array, 1) == columns,
          (std::string(name) + " must have " + std::to_string(columns) + " columns").c_str());
  numbers.data = array.data();
  return numbers;
}

}  // namespace resmem
