// Lets go of the GIL while work runs, and asks for it where Python's signal handlers are to run.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

#include "../base/platform.h"

namespace resmem {

namespace py = pybind11;

// Runs Python's signal handlers. Returns whether one of them raised.
inline bool signal_raised() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// Lets the GIL go for as long as it lives.
//
// Up to Python 3.13 the interpreter ends a daemon thread that asks for the GIL when the program is
// at its end. The thread's stack is then unwound by force, through frames that no exception may
// leave, and the program would abort. Such a thread waits here instead, until the process is gone.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    try {
      PyEval_RestoreThread(state_);
    } catch (const ForcedUnwind&) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace resmem
