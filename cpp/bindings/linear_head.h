// A LinearHead from Python arrays, kept alive by the caller's arguments.
#pragma once

#include "../residuals/head.h"
#include "bindings.h"

namespace resmem {

inline LinearHead linear_head(const Array<float>& weight, const Array<float>& bias,
                              double temperature) {
  require(weight.ndim() == 2 && bias.ndim() == 1 && extent(bias, 0) == extent(weight, 0) &&
              weight.size() > 0,
          "weight must be (C, d) and bias (C,), neither empty");
  return {weight.data(), bias.data(), extent(weight, 0), extent(weight, 1), temperature};
}

}  // namespace resmem
