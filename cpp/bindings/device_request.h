// A search on a device as Python asks for it, and how what is asked of a device is run.
#pragma once

#include "../../cuda/device.h"
#include "../base/fp_guard.h"
#include "device_arrays.h"
#include "gil.h"

namespace resmem {

// Which rows queries see, by the names and in the forms of the core's search; None restricts
// nothing.
struct VisibleObjects {
  py::object exclude, exclude_groups, before, among;
};

// Where a search runs, and what it may take there.
struct SearchPlace {
  int device;
  std::uintptr_t stream;
  std::size_t workspace_bytes, slab_bytes;
  device::Lanes* lanes;
};

// A search without arrays for results, and the objects that it reads.
struct BoundDeviceSearch {
  device::DeviceSearch request;
  std::vector<py::object> kept;

  BoundDeviceSearch(const py::object& queries, const py::sequence& segments, std::size_t k,
                    const std::string& metric, const VisibleObjects& visible, std::int64_t version,
                    const SearchPlace& place, const device::ForcedSearch& forced);
};

// Comes out of a poll where a signal handler has raised an exception of Python.
struct Stopped {};

// Calls work(poll) without the GIL. `poll` runs signal handlers, and what they raise comes out.
template <class Work>
void without_gil(const Work& work) {
  try {
    // Python runs signal handlers on the main thread alone: others need not take the GIL to ask.
    const bool may_ask = on_main_thread();
    const GilRelease released;
    const FpGuard guard;  // for the emulation, whose kernels compute here
    work([may_ask] {
      if (may_ask && signal_raised()) throw Stopped();
    });
  } catch (const Stopped&) {
    throw py::error_already_set();
  }
}

}  // namespace resmem
