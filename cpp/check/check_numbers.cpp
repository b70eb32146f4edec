// Checks float16 and bfloat16 numbers, widened and narrowed.
#include <cstddef>
#include <cstdint>

#include "checks.h"

namespace resmem {

void check_numbers(Context& context, Reader& reader) {
  const bool half = reader.type() == NumberType::float16;
  const KernelTable& k = context.kernels;
  const Halves halves = reader.array<std::uint16_t>();
  const Floats wide = reader.array<float>(halves.size()), x = reader.array<float>();
  const Halves narrow = reader.array<std::uint16_t>(x.size());
  Floats got_wide(wide.size());
  Halves got_narrow(narrow.size());
  (half ? k.numbers.widen_float16 : k.numbers.widen_bfloat16)(halves.data(), got_wide.data(),
                                                              wide.size());
  (half ? k.numbers.narrow_float16 : k.numbers.narrow_bfloat16)(x.data(), got_narrow.data(),
                                                                x.size());
  context.count(context.same(got_wide, wide, "widened"));
  context.count(context.same(got_narrow, narrow, "narrowed"));
}

}  // namespace resmem
