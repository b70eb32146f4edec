// Arrays as Python hands them over to a device's module.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../../cuda/residuals.h"
#include "bindings.h"

namespace resmem {

// An array of NumPy, or an object that says where on a device it lies (`address`, `shape`,
// `dtype`). The caller keeps it alive.
struct View {
  void* address = nullptr;
  std::vector<std::size_t> shape;
  std::string dtype;
  bool on_device = false;

  template <class T>
  T* of() const {
    return static_cast<T*>(address);
  }
  template <class T>
  device::Placed<T> placed() const {
    return {static_cast<T*>(address), on_device};
  }
  std::size_t extent(std::size_t axis) const { return axis < shape.size() ? shape[axis] : 0; }
};

inline View view_of(const py::handle& object, const char* name) {
  View view;
  if (py::isinstance<py::array>(object)) {
    const auto array = py::reinterpret_borrow<py::array>(object);
    require((array.flags() & py::array::c_style) != 0,
            (std::string(name) + " must be C-contiguous").c_str());
    view.address = const_cast<void*>(array.data());
    for (int axis = 0; axis < array.ndim(); ++axis) view.shape.push_back(extent(array, axis));
    view.dtype = py::cast<std::string>(py::str(array.dtype()));
    return view;
  }
  view.address = reinterpret_cast<void*>(object.attr("address").cast<std::uintptr_t>());
  view.shape = object.attr("shape").cast<std::vector<std::size_t>>();
  view.dtype = object.attr("dtype").cast<std::string>();
  view.on_device = true;
  return view;
}

inline View checked(const py::handle& object, const char* name, const std::string& dtype,
                    const std::vector<std::size_t>& shape) {
  View view = view_of(object, name);
  std::string wanted;
  for (const std::size_t extent : shape) wanted += std::to_string(extent) + ", ";
  require(view.dtype == dtype && view.shape == shape,
          (std::string(name) + " must be " + dtype + " (" + wanted + ")").c_str());
  return view;
}

// Numbers of bfloat16 may come as their bits, as NumPy lacks them.
inline NumberType number_type(const std::string& dtype) {
  return choice<NumberType>(dtype, {{"float32", NumberType::float32},
                                    {"float16", NumberType::float16},
                                    {"bfloat16", NumberType::bfloat16},
                                    {"uint16", NumberType::bfloat16},
                                    {"float64", NumberType::float64}});
}

inline device::MemorySource source_from(int device, const std::optional<std::uintptr_t>& stream) {
  device::MemorySource source;
  source.device = device;
  if (stream) source.stream = device::StreamHandle{*stream};
  return source;
}

}  // namespace resmem
