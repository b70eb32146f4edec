// Checks the elementary functions of the contract, and the softmax that is made of them.
#include <cstddef>

#include "../residuals/residual_store.h"
#include "checks.h"

namespace resmem {
namespace {

void check_function(Context& context, Reader& reader, void (*function)(double*, std::size_t)) {
  const Doubles x = reader.array<double>(), wanted = reader.array<double>(x.size());
  Doubles out = x;
  function(out.data(), out.size());
  context.count(context.same(out, wanted, "output"));
}

}  // namespace

void check_exp(Context& context, Reader& reader) {
  check_function(context, reader, context.kernels.exact.exp);
}

void check_log(Context& context, Reader& reader) {
  check_function(context, reader, context.kernels.exact.log);
}

void check_softmax(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const auto temperature = reader.value<double>();
  const Floats logits = reader.array<float>(times(n, columns));
  const Doubles wanted = reader.array<double>(logits.size());
  check_output(context, wanted, [&](const Execution& execution, Doubles& out) {
    softmax_rows(logits.data(), n, columns, temperature, execution, out.data());
  });
}

}  // namespace resmem
