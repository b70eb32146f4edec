// float16 of one number, for a vector type whose ISA does not convert it.
#pragma once

#include <cstdint>
#include <cstring>

namespace resmem {
namespace {

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// float16: 1 sign, 5 exponent (bias 15) and 10 fraction bits, where float32 has 1, 8 (127), 23.
inline float widen_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t exponent = half >> 10 & 31, fraction = half & 0x3FF;
  if (exponent == 31)  // infinity, or a NaN that becomes a quiet one
    return float_of(sign | 0x7F800000 | fraction << 13 | (fraction != 0 ? 0x400000 : 0));
  if (exponent == 0) {  // zero or subnormal: a multiple of 2^-24
    const float size = static_cast<float>(fraction) * 0x1p-24F;
    return float_of(sign | bits_of(size));
  }
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

inline std::uint16_t narrow_half(float x) {
  const std::uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
  std::uint32_t half = 0;
  if (size > 0x7F800000) {  // NaN: quiet, its fraction cut
    half = 0x7E00 | (size >> 13 & 0x3FF);
  } else if (size >= 0x47800000) {  // 65536 or more
    half = 0x7C00;
  } else if (size < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    half = bits_of(float_of(size) + 0.5F) - bits_of(0.5F);
  } else {  // a carry out of the fraction is one of the exponent, up to infinity
    half = (size - (112U << 23) + 0xFFF + (size >> 13 & 1)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace
}  // namespace resmem
