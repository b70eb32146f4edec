// The arithmetic of CONTRACT.md whatever state the caller left the floating-point unit in.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace resmem {

// Round to nearest, gradual underflow, no traps; the caller's state comes back on exit.
class FpGuard {
 public:
#if defined(__x86_64__)
  FpGuard() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~FpGuard() { _mm_setcsr(saved_); }

 private:
  unsigned int saved_;
#elif defined(__aarch64__)
  FpGuard() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  }
  ~FpGuard() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  std::uint64_t saved_ = 0;
#else
#error "resmem supports x86-64 and AArch64"
#endif

 public:
  FpGuard(const FpGuard&) = delete;
  FpGuard& operator=(const FpGuard&) = delete;
};

}  // namespace resmem
