// Says how a call from Python is carried out, and carries it out without the GIL.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "../base/cpu.h"
#include "../base/execution.h"
#include "../base/fp_guard.h"
#include "../base/platform.h"
#include "bindings.h"

namespace resmem {

// What callers choose. Defaults are looked up at each call, as they may change in between.
struct ExecutionChoice {
  std::size_t threads = 0;  // 0: as many as the process may use
  std::string isa;          // empty: the fastest kernels

  explicit ExecutionChoice(std::size_t thread_limit = 0, std::string isa_name = "")
      : threads(thread_limit), isa(std::move(isa_name)) {
    if (!isa.empty()) select_kernels(isa);  // an unknown name is refused here
  }

  const KernelTable& kernels() const { return select_kernels(isa); }
  std::size_t thread_count() const {
    return std::min(threads > 0 ? threads : default_threads(), kMostThreads);
  }
};

// This is the last argument of every function that computes.
inline py::arg_v execution_argument() { return {"execution", ExecutionChoice(), "..."}; }

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

// Runs work(interrupt) without the GIL and in the contract's floating-point state; a signal
// handler's exception comes out as itself.
template <class Work>
auto without_gil(const Work& work) {
  reserve_exceptions();
  // Python runs signal handlers on the main thread alone: others need not take the GIL to ask.
  Interrupt interrupt(on_main_thread() ? signal_raised : nullptr);
  try {
    const GilRelease release;
    const FpGuard guard;
    return work(interrupt);
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

// Does the same with an execution, for work that uses kernels and several threads.
template <class Work>
auto without_gil(const ExecutionChoice& choice, const Work& work) {
  const KernelTable& kernels = choice.kernels();
  const std::size_t threads = choice.thread_count();
  return without_gil([&](Interrupt& interrupt) {
    return work(Execution{kernels, threads, interrupt});
  });
}

}  // namespace resmem
