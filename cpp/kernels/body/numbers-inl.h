// Numbers half as wide: float16, by the vector type's conversions, and bfloat16.
#pragma once

#include "../table.h"

namespace resmem {
namespace {

void widen_float16(const std::uint16_t* x, float* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + F32::kLanes <= n; i += F32::kLanes) F32::widen(x + i).store(out + i);
  if (i < n) {
    std::uint16_t half[F32::kLanes] = {};
    float lane[F32::kLanes];
    for (std::size_t j = 0; j < n - i; ++j) half[j] = x[i + j];
    F32::widen(half).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) out[i + j] = lane[j];
  }
}

void narrow_float16(const float* x, std::uint16_t* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + F32::kLanes <= n; i += F32::kLanes) F32::load(x + i).narrow(out + i);
  if (i < n) {
    std::uint16_t half[F32::kLanes];
    float lane[F32::kLanes] = {};
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    F32::load(lane).narrow(half);
    for (std::size_t j = 0; j < n - i; ++j) out[i + j] = half[j];
  }
}

// A bfloat16 is the upper half of a float32: integers throughout, left to the compiler.
void widen_bfloat16(const std::uint16_t* x, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x[i]) << 16;
    __builtin_memcpy(out + i, &bits, sizeof bits);
  }
}

void narrow_bfloat16(const float* x, std::uint16_t* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const std::uint32_t quiet = bits >> 16 | 0x40;  // rounding could carry a NaN to infinity
    const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    out[i] = static_cast<std::uint16_t>(nan ? quiet : rounded);
  }
}

constexpr void fill_numbers(NumberKernels& kernels) {
  kernels.widen_float16 = widen_float16;
  kernels.widen_bfloat16 = widen_bfloat16;
  kernels.narrow_float16 = narrow_float16;
  kernels.narrow_bfloat16 = narrow_bfloat16;
}

}  // namespace
}  // namespace resmem
