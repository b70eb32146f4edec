// The core's own pool of threads. It needs no OpenMP and no BLAS, and processes may fork around it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <stdexcept>

namespace resmem {

// Thrown out of long work when the caller asked to stop (Ctrl-C).
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

// Asks the caller, now and then, whether to stop. `ask` runs only on the calling thread.
class Interrupt {
 public:
  using Ask = bool (*)();
  explicit Interrupt(Ask ask = nullptr) : ask_(ask) {}

  // Every thread calls this between pieces of work of at most a few milliseconds.
  void poll(bool calling_thread) {
    if (calling_thread && ask_ != nullptr) {
      const auto now = std::chrono::steady_clock::now();
      if (now - last_ >= kPeriod) {
        last_ = now;
        if (ask_()) stop();
      }
    }
    if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
  }
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

  static constexpr std::chrono::milliseconds kPeriod{40};

 private:
  Ask ask_;
  std::atomic<bool> stopped_{false};
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Returns how many threads this process may use: RESMEM_NUM_THREADS, or else the least of
// usable_cpus(), OMP_NUM_THREADS and OMP_THREAD_LIMIT.
std::size_t default_threads();

// Makes what the calling thread needs to throw and catch. Otherwise that is made when the thread
// first throws, and the C library ends the process if no memory is left by then.
void reserve_exceptions();

// No call uses more threads than this, whatever it is asked for.
inline constexpr std::size_t kMostThreads = 1024;

// Runs body(task, calling_thread) for every task in [0, tasks) on at most `threads` threads,
// the calling one included. The first exception stops the rest and is rethrown here.
void parallel_for(std::size_t tasks, std::size_t threads, Interrupt& interrupt,
                  const std::function<void(std::size_t task, bool calling_thread)>& body);

// Runs body(first, last, calling_thread) over blocks of n rows, each of `row_cost` values: long
// enough to be worth handing out, short enough to answer an interrupt.
void parallel_for_rows(
    std::size_t n, std::size_t row_cost, std::size_t threads, Interrupt& interrupt,
    const std::function<void(std::size_t first, std::size_t last, bool calling_thread)>& body);

}  // namespace resmem
