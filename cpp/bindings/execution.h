// Says how a call from Python is carried out, and carries it out without the GIL.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "../base/cpu.h"
#include "../base/execution.h"
#include "../base/fp_guard.h"
#include "bindings.h"
#include "gil.h"

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
