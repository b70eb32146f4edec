#include "bind_faults.h"

#include "../driver.h"
#include "faults.h"
#include "streams.h"

namespace resmem {
namespace {

namespace py = pybind11;
using emulation::Faults;

constexpr device::StreamHandle kLegacy{};

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

std::uintptr_t allocate_python(std::size_t bytes, int device, bool on_stream) {
  const device::OnDevice on(device);
  void* address = on_stream ? device::allocate_on(kLegacy, bytes) : device::allocate(bytes);
  return reinterpret_cast<std::uintptr_t>(address);
}

void copy_in_python(std::uintptr_t to, const py::bytes& bytes, int device) {
  const device::OnDevice on(device);
  const auto view = static_cast<std::string>(bytes);
  device::copy_in(kLegacy, pointer(to), view.data(), view.size());
  emulation::finish(device, kLegacy);  // whatever is planted for those who wait
}

py::bytes copy_out_python(std::uintptr_t from, std::size_t bytes, int device,
                          std::uintptr_t stream) {
  const device::OnDevice on(device);
  std::string host(bytes, '\0');
  device::copy_out({stream}, host.data(), pointer(from), bytes);
  device::wait({stream});
  return host;
}

void wait_python(int device) {
  const device::OnDevice on(device);
  device::wait(kLegacy);
}

void fail_launch_python(const char* kernel, const char* reason, int device) {
  const device::OnDevice on(device);
  device::throw_failed_launch(kernel, reason);
}

}  // namespace

void register_faults(py::module_& module) {
  using namespace py::literals;
  py::class_<Faults>(module, "Faults", "What the devices are like, and what goes wrong with them.")
      .def_readwrite("driver", &Faults::driver)
      .def_readwrite("runtime", &Faults::runtime)
      .def_readwrite("devices", &Faults::devices)
      .def_readwrite("name", &Faults::name)
      .def_readwrite("major", &Faults::major)
      .def_readwrite("minor", &Faults::minor)
      .def_readwrite("memory", &Faults::memory)
      .def_readwrite("multiprocessors", &Faults::multiprocessors)
      .def_readwrite("memory_pools", &Faults::memory_pools)
      .def_readwrite("succeeding_allocations", &Faults::succeeding_allocations)
      .def_readwrite("failing_allocations", &Faults::failing_allocations)
      .def_readwrite("pinnable", &Faults::pinnable)
      .def_readwrite("succeeding_copies", &Faults::succeeding_copies)
      .def_readwrite("failing_copies", &Faults::failing_copies)
      .def_readwrite("counted_copies", &Faults::counted_copies)
      .def_readwrite("failing_kernel", &Faults::failing_kernel)
      .def_readwrite("busy_polls", &Faults::busy_polls)
      .def_readwrite("failing_wait", &Faults::failing_wait);
  module.def("faults", &emulation::faults, py::return_value_policy::reference,
             "The faults of all devices, to be changed.");
  module.def("reset_devices", &emulation::reset_devices,
             "Makes the devices those of a new process without faults.");
  module.def("bytes_in_use", &emulation::bytes_in_use,
             "Bytes that were allocated on all devices and not released.");
  module.def("pinned_in_use", &emulation::pinned_in_use,
             "Bytes of pinned memory of the host that were not released.");
  module.def("handles_in_use", &emulation::handles_in_use,
             "Streams and events that were made and not destroyed.");
  module.def(
      "what_was_done",
      [](bool begin) {
        py::list done;
        for (const emulation::Done& each : emulation::what_was_done(begin))
          done.append(py::make_tuple(each.what, each.device, each.stream));
        return done;
      },
      "begin"_a = false, "Kernels and copies, each with its device and stream, in this order.");
  py::class_<emulation::Graph>(module, "Graph", "What a stream was asked for while captured.")
      .def("replay", &emulation::Graph::replay, "Asks the stream for all of it again.")
      .def("__len__", &emulation::Graph::size);
  module.def(
      "begin_capture",
      [](std::uintptr_t stream, int device) {
        emulation::begin_capture(device, device::StreamHandle{stream});
      },
      "stream"_a, "device"_a = 0, "Notes from here on what the stream is asked for.");
  module.def(
      "end_capture",
      [](std::uintptr_t stream, int device) {
        return emulation::end_capture(device, device::StreamHandle{stream});
      },
      "stream"_a, "device"_a = 0, "The graph; DeviceError if a forbidden call has ended it.");
  module.def("allocate", &allocate_python, "bytes"_a, "device"_a = 0, "on_stream"_a = false,
             "The address of new memory.");
  module.def(
      "release",
      [](std::uintptr_t address, int device) { device::release(device, pointer(address)); },
      "address"_a, "device"_a = 0);
  module.def(
      "allocate_pinned",
      [](std::size_t bytes) {
        return reinterpret_cast<std::uintptr_t>(device::allocate_pinned(bytes));
      },
      "bytes"_a, "The address of new pinned memory of the host.");
  module.def(
      "release_pinned", [](std::uintptr_t address) { device::release_pinned(pointer(address)); },
      "address"_a);
  module.def(
      "pinned",
      [](std::uintptr_t address, py::ssize_t bytes) {
        return py::memoryview::from_memory(pointer(address), bytes);
      },
      "address"_a, "bytes"_a, "What lies in pinned memory, to be written to.");
  module.def("copy_in", &copy_in_python, "to"_a, "bytes"_a, "device"_a = 0);
  module.def("copy_out", &copy_out_python, "from_address"_a, "bytes"_a, "device"_a = 0,
             "stream"_a = 0);
  module.def("wait", &wait_python, "device"_a = 0);
  module.def("fail_launch", &fail_launch_python, "kernel"_a, "reason"_a, "device"_a = 0,
             "Does what a launch does that fails.");
}

}  // namespace resmem
