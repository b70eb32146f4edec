#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "sanitizers.h"

#if defined(__x86_64__)
// resmem_switch_stacks(void** from, void* to): keeps the registers that a call must keep on the
// present stack, and that stack's pointer in *from, and takes both from the stack `to`.
asm(R"(
.text
.hidden resmem_switch_stacks
.globl resmem_switch_stacks
.type resmem_switch_stacks, @function
resmem_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size resmem_switch_stacks, .-resmem_switch_stacks
)");
extern "C" void resmem_switch_stacks(void** from, void* to);
#endif

namespace resmem {
namespace emulation {
namespace {

char* new_stack(std::size_t bytes) {
  void* stack = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(stack);
}

// A new fiber begins here. Only a global can hand it over, as it has no arguments yet.
thread_local Fiber* beginning = nullptr;

}  // namespace

Fiber::Fiber(std::size_t stack_bytes) : stack_bytes_(stack_bytes), stack_(new_stack(stack_bytes)) {}

Fiber::~Fiber() {
#if defined(RESMEM_THREAD_SANITIZER)
  if (own_shadow_ != nullptr) __tsan_destroy_fiber(own_shadow_);
#endif
  munmap(stack_, stack_bytes_);
}

// The first function on a fiber's stack. It does not return, but no caller may know that: before a
// call that does not return, AddressSanitizer looks at a stack that it has not been told of yet.
void Fiber::run() {
  Fiber* fiber = beginning;
#if defined(RESMEM_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(nullptr, &fiber->resumer_stack_, &fiber->resumer_stack_bytes_);
#endif
  fiber->body_(fiber->argument_);
  {
    const Unwatched unwatched;
    fiber->ended_ = true;
  }
  fiber->leave(true);
  std::abort();  // nobody resumes a fiber that has ended
}

void Fiber::begin(Body body, void* argument) {
  body_ = body;
  argument_ = argument;
#if defined(RESMEM_THREAD_SANITIZER)
  // A body never returns to what called it, so that calls pile up in the sanitizer's record.
  constexpr unsigned kMostBodies = 256;
  if (own_shadow_ == nullptr || !ended_ || ++bodies_ == kMostBodies) {
    if (own_shadow_ != nullptr) __tsan_destroy_fiber(own_shadow_);
    own_shadow_ = __tsan_create_fiber(0);
    bodies_ = 0;
  }
#endif
  ended_ = false;
#if defined(RESMEM_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // of what was dropped on it
#endif
#if !defined(RESMEM_THREAD_SANITIZER)
  own_shadow_ = nullptr;
#endif
#if defined(__x86_64__)
  // The first switch takes six registers from the stack and returns to run(), for which the stack
  // must look as after a call: 8 bytes beyond a multiple of 16.
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes_ - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::run);
  top -= 6;
  std::memset(top, 0, 6 * sizeof(void*));
  own_ = top;
#else
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = stack_bytes_;
  own_.uc_link = nullptr;
  makecontext(&own_, &Fiber::run, 0);
#endif
}

void Fiber::resume() {
  beginning = this;
#if defined(RESMEM_THREAD_SANITIZER)
  resumer_shadow_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(own_shadow_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(RESMEM_ADDRESS_SANITIZER)
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(&mine, stack_, stack_bytes_);
#endif
#if defined(__x86_64__)
  resmem_switch_stacks(&resumer_, own_);
#else
  swapcontext(&resumer_, &own_);
#endif
#if defined(RESMEM_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#endif
}

void Fiber::suspend() { leave(false); }

void Fiber::leave([[maybe_unused]] bool for_ever) {
#if defined(RESMEM_THREAD_SANITIZER)
  void* shadow = nullptr;
  {
    const Unwatched unwatched;
    shadow = resumer_shadow_;
  }
  __tsan_switch_to_fiber(shadow, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(RESMEM_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &own_shadow_, resumer_stack_,
                                 resumer_stack_bytes_);
#endif
#if defined(__x86_64__)
  resmem_switch_stacks(&own_, resumer_);
#else
  swapcontext(&own_, &resumer_);
#endif
#if defined(RESMEM_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(own_shadow_, &resumer_stack_, &resumer_stack_bytes_);
#endif
}

}  // namespace emulation
}  // namespace resmem
