// Gives the core the arithmetic of CONTRACT.md, whatever state the caller left the floating-point
// unit in.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace resmem {

#if defined(__x86_64__)
inline std::uint64_t float_state() { return _mm_getcsr(); }
inline void set_float_state(std::uint64_t state) { _mm_setcsr(static_cast<unsigned int>(state)); }
inline constexpr std::uint64_t kContractState = 0x1F80;
inline constexpr std::uint64_t kFlushesToZero = 0x8040;  // also reads denormals as zero
#elif defined(__aarch64__)
inline std::uint64_t float_state() {
  std::uint64_t state = 0;
  asm volatile("mrs %0, fpcr" : "=r"(state));
  return state;
}
inline void set_float_state(std::uint64_t state) { asm volatile("msr fpcr, %0" : : "r"(state)); }
inline constexpr std::uint64_t kContractState = 0;
inline constexpr std::uint64_t kFlushesToZero = std::uint64_t{1} << 24;
#else
#error "resmem supports x86-64 and AArch64"
#endif

// Sets rounding to nearest, gradual underflow and no traps while it lives, and then brings the
// caller's state back.
class FpGuard {
 public:
  FpGuard() : saved_(float_state()) { set_float_state(kContractState); }
  ~FpGuard() { set_float_state(saved_); }
  FpGuard(const FpGuard&) = delete;
  FpGuard& operator=(const FpGuard&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace resmem
