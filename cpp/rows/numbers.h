// Numbers as they are stored. They are float32, or half as wide and widened exactly where they are
// read, or float64 and read as they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../kernels/table.h"

namespace resmem {

enum class NumberType : std::uint8_t { float32, float16, bfloat16, float64 };

struct Numbers {
  const void* data = nullptr;
  NumberType type = NumberType::float32;

  std::size_t bytes(std::size_t n) const {
    return n * (type == NumberType::float64 ? 8 : type == NumberType::float32 ? 4 : 2);
  }
  const void* at(std::size_t i) const { return static_cast<const char*>(data) + bytes(i); }

  // Returns the float64 numbers from the i-th on.
  const double* wide(std::size_t i) const { return static_cast<const double*>(data) + i; }
  // Returns the n numbers from the i-th on as float32. None may be wider than that. They are read
  // where they lie, or widened into `scratch`.
  const float* read(std::size_t i, std::size_t n, float* scratch,
                    const KernelTable& kernels) const {
    if (type == NumberType::float32) return static_cast<const float*>(data) + i;
    const auto* halves = static_cast<const std::uint16_t*>(data) + i;
    (type == NumberType::float16 ? kernels.numbers.widen_float16 : kernels.numbers.widen_bfloat16)(
        halves, scratch, n);
    return scratch;
  }
};

}  // namespace resmem
