// Checks residuals as they are stored, and logits.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../residuals/head.h"
#include "../residuals/residual_store.h"
#include "checks.h"

namespace resmem {
namespace {

// Owns what ClassRows points to.
struct ClassCase {
  ClassCase(Reader& reader, std::size_t n, std::size_t columns) {
    rows.n = n;
    rows.columns = columns;
    rows.temperature = reader.value<double>();
    outputs = reader.array<float>(times(n, columns));
    labels = reader.array<std::int64_t>(n);
    rows.outputs = outputs.data();
    rows.labels = labels.data();
  }
  ClassRows rows;
  Floats outputs;
  Integers labels;
};

// Has room for numbers like those wanted, and tells whether they came.
struct StoredOutput {
  explicit StoredOutput(const StoredVector& like)
      : wanted(like), floats(like.floats.size()), halves(like.halves.size()) {
    if (like.type == NumberType::float32)
      numbers.floats = floats.data();
    else
      numbers.halves = halves.data();
  }
  bool same(Context& context) const {
    return context.same(floats, wanted.floats, "float32") &&
           context.same(halves, wanted.halves, "float16");
  }
  const StoredVector& wanted;
  Floats floats;
  Halves halves;
  StoredNumbers numbers;
};

}  // namespace

void check_residuals(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const ClassCase given(reader, n, columns);
  const StoredVector wanted = reader.numbers(given.outputs.size());
  for_threads(context, [&](const Execution& execution) {
    StoredOutput out(wanted);
    class_residuals(given.rows, execution, out.numbers);
    return out.same(context);
  });
}

void check_sparse(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size(), others = reader.size();
  require(others < columns, "more classes than there are");
  const ClassCase given(reader, n, columns);
  const auto index = reader.array<std::int32_t>(times(n, others + 1));
  const StoredVector value = reader.numbers(index.size());
  const Floats rest = reader.array<float>(n);
  const auto error = reader.value<double>();
  for_threads(context, [&](const Execution& execution) {
    std::vector<std::int32_t> got_index(index.size());
    StoredOutput got_value(value);
    Floats got_rest(n);
    const SparseResiduals out{got_index.data(), got_value.numbers, got_rest.data()};
    const Doubles got_error{sparse_residuals(given.rows, others, execution, out)};
    return context.same(got_index, index, "index") && got_value.same(context) &&
           context.same(got_rest, rest, "rest") && context.same(got_error, {error}, "error");
  });
}

void check_logits(Context& context, Reader& reader) {
  const std::size_t n = reader.size();
  LinearHead head;
  head.columns = reader.size();
  head.d = reader.size();
  const StoredVector keys = reader.numbers(times(n, head.d));
  const Floats weight = reader.array<float>(times(head.columns, head.d));
  const Floats bias = reader.array<float>(head.columns);
  const Floats wanted = reader.array<float>(times(n, head.columns));
  head.weight = weight.data();
  head.bias = bias.data();
  const auto key = [&](std::size_t i, float* scratch) {
    return keys.numbers().read(i * head.d, head.d, scratch, context.kernels);
  };
  check_output(context, wanted, [&](const Execution& execution, Floats& out) {
    head_logits(head, n, key, execution, out.data());
  });
}

}  // namespace resmem
