// The bits of a float64, for what canonical exp and log ask of the lane types:
//
//   pow2_of_shifted(s)  2^n, given s = n + 0x1.8p52, whose low bits are n in two's complement
//   log_parts(x)        x = mantissa * 2^exponent with the mantissa in [sqrt(1/2), sqrt(2)), for
//                       x >= 2^-1022
//
// Of the latter: adding the bits of 1 less those of sqrt(1/2) carries into the exponent where the
// fraction is that of a number below sqrt(1/2); adding the latter to the fraction that is left
// undoes it.
#pragma once

#include <cstdint>

#include "body/unroll-inl.h"

namespace resmem {
namespace {

constexpr std::int64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
constexpr std::int64_t kLogCarry = 0x3FF0000000000000 - kSqrtHalf;
constexpr std::int64_t kFraction = 0x000FFFFFFFFFFFFF;
// An exponent in the lowest bits of 2^52 is a float64 of that much more.
constexpr std::int64_t kTwo52 = 0x4330000000000000;
constexpr double kLogBias = 0x1p52 + 1023;

// V is a lane type, or double.
template <class V>
struct LogParts {
  V exponent, mantissa;
};

// Both of one number, without vectors.
RESMEM_INLINE double pow2_of_shifted(double shifted) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return power;
}
RESMEM_INLINE LogParts<double> log_parts(double x) {
  std::int64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const std::int64_t t = bits + kLogCarry, mantissa_bits = (t & kFraction) + kSqrtHalf;
  double mantissa;
  __builtin_memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
  return {static_cast<double>(t >> 52) - 1023.0, mantissa};
}

}  // namespace
}  // namespace resmem
