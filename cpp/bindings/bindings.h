// Shared by the binding files: one file per subject, each with one register_ function.
//
// Every function converts and checks first, then releases the GIL; nothing below a released
// GIL touches Python. Arrays arrive as the thin Python layer prepared them: a wrong dtype or
// layout is a TypeError here, never a silent copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "../core/cpu.h"
#include "../core/fp_guard.h"
#include "../core/threads.h"

namespace resmem {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void register_search(py::module_& module);
void register_aggregate(py::module_& module);
void register_arrays(py::module_& module);
void register_system(py::module_& module);
void register_testing(py::module_& module);

// Runs Python's signal handlers; true if one of them raised.
inline bool signal_raised() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// Runs work(interrupt) without the GIL and in the contract's floating-point state; a signal
// handler's exception comes out as itself.
template <class Work>
auto without_gil(const Work& work) {
  Interrupt interrupt(signal_raised);
  try {
    const py::gil_scoped_release release;
    const FpGuard guard;
    return work(interrupt);
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

// The threads a call may use; 0: the default.
inline std::size_t thread_count(std::size_t threads) {
  return std::min(threads > 0 ? threads : default_threads(), kMostThreads);
}

inline void require(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

inline std::size_t extent(const py::array& array, int axis) {
  return static_cast<std::size_t>(array.shape(axis));
}

}  // namespace resmem
