#include "bind_device.h"

#include "../../cuda/driver.h"
#include "gil.h"

namespace resmem {
namespace {

using ReleasedGil = py::call_guard<GilRelease>;

py::dict properties_python(int device) {
  device::Properties found;
  {
    const GilRelease released;
    found = device::properties(device);
  }
  py::dict properties;
  properties["name"] = found.name;
  properties["major"] = found.major;
  properties["minor"] = found.minor;
  properties["memory"] = found.memory;
  properties["multiprocessors"] = found.multiprocessors;
  return properties;
}

py::tuple versions_python() {
  const device::Versions found = device::versions();
  return py::make_tuple(found.driver, found.runtime);
}

std::size_t free_memory_python(int device) {
  const device::OnDevice on(device);
  return device::free_memory();
}

int device_of_python(std::uintptr_t address) {
  return device::device_of(reinterpret_cast<const void*>(address));
}

// Makes a class of exceptions in the module, which pybind11's own helper cannot give two bases.
py::object exception_class(py::module_& module, const char* name, const py::object& bases,
                           const char* doc) {
  const std::string full = py::cast<std::string>(module.attr("__name__")) + "." + name;
  auto made = py::reinterpret_steal<py::object>(
      PyErr_NewExceptionWithDoc(full.c_str(), doc, bases.ptr(), nullptr));
  if (!made) throw py::error_already_set();
  module.attr(name) = made;
  return made;
}

// The classes live as long as the process, as the modules do. Another module of this kind has
// classes of its own.
struct Exceptions {
  py::handle failed, out_of_memory;
};
Exceptions exceptions;

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const device::OutOfDeviceMemory& error) {
    const py::object made = exceptions.out_of_memory(error.what());
    made.attr("asked") = error.asked;
    made.attr("free") = error.free;
    made.attr("total") = error.total;
    PyErr_SetObject(exceptions.out_of_memory.ptr(), made.ptr());
  } catch (const device::DeviceError& error) {
    PyErr_SetString(exceptions.failed.ptr(), error.what());
  }
}

}  // namespace

void register_device(py::module_& module) {
  using namespace py::literals;
  const py::object base = py::module_::import("resmem._base.errors").attr("DeviceError");
  const py::object failed =
      exception_class(module, "DeviceError", base, "A device did not do what it was asked.");
  const py::object out_of_memory = exception_class(
      module, "OutOfDeviceMemory",
      py::make_tuple(failed, py::reinterpret_borrow<py::object>(PyExc_MemoryError)),
      "A device has too little free memory: `asked`, `free` and `total` are in bytes.");
  exceptions = {failed.inc_ref(), out_of_memory.inc_ref()};
  py::register_local_exception_translator(&translate);

  module.def("versions", &versions_python,
             "The versions of the driver and the runtime, 1000 for a major and 10 for a minor\n"
             "number. Without a driver its version is 0.");
  module.def("device_count", &device::device_count, ReleasedGil(),
             "How many devices there are; 0 without a driver, or with one that is too old.");
  module.def("properties", &properties_python, "device"_a,
             "The name, major and minor compute capability, memory in bytes and multiprocessors.");
  module.def("free_memory", &free_memory_python, "device"_a, ReleasedGil(),
             "Bytes of the device's memory that are free.");
  module.def("device_of", &device_of_python, "address"_a, ReleasedGil(),
             "The device whose memory this address is, or -1 for memory of the host.");
}

}  // namespace resmem
