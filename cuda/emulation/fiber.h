// A fiber is a stack of its own on which a function runs until it suspends itself, to be resumed
// later.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace resmem {
namespace emulation {

// Fibers of one thread of the system take turns: whoever resumes a fiber runs on when that fiber
// suspends itself or ends. AddressSanitizer and ThreadSanitizer are told of every change of stacks.
// For the latter a change orders nothing: what two fibers do is a race unless they synchronise.
class Fiber {
 public:
  using Body = void (*)(void* argument);

  explicit Fiber(std::size_t stack_bytes);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() call body(argument), which must not throw. A body that was left
  // suspended is dropped, and nothing on its stack is destroyed.
  void begin(Body body, void* argument);
  void resume();
  void suspend();  // called by the running body
  bool ended() const { return ended_; }

 private:
  static void run();
  void leave(bool for_ever);

  const std::size_t stack_bytes_;
  char* const stack_;
  Body body_ = nullptr;
  void* argument_ = nullptr;
  bool ended_ = true;
#if defined(__x86_64__)
  void* own_ = nullptr;      // stack pointer of the fiber while it is suspended
  void* resumer_ = nullptr;  // and of who resumed it
#else
  ucontext_t own_, resumer_;
#endif
  // The sanitizers know the two stacks by these.
  [[maybe_unused]] void* own_shadow_ = nullptr;
  [[maybe_unused]] void* resumer_shadow_ = nullptr;
  [[maybe_unused]] unsigned bodies_ = 0;  // that the first of them was for
  [[maybe_unused]] const void* resumer_stack_ = nullptr;
  [[maybe_unused]] std::size_t resumer_stack_bytes_ = 0;
};

}  // namespace emulation
}  // namespace resmem
