// Numbers as rows and queries store them, each read as the float64 that it stands for.
#pragma once

#include "ptx.h"

namespace resmem {
namespace device {

struct Float16 {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

RESMEM_DEVICE double wide(double x) { return x; }
RESMEM_DEVICE double wide(float x) { return static_cast<double>(x); }
RESMEM_DEVICE double wide(Float16 x) { return static_cast<double>(simt::widened_half(x.bits)); }
RESMEM_DEVICE double wide(Bfloat16 x) {
  const std::uint32_t bits = std::uint32_t{x.bits} << 16;  // the upper half of a float32
  float number;
  memcpy(&number, &bits, sizeof number);
  return static_cast<double>(number);
}

}  // namespace device
}  // namespace resmem
