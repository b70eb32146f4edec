#include "../residuals/head.h"
#include "../residuals/residual_store.h"
#include "bindings.h"
#include "linear_head.h"

namespace resmem {
namespace {

Array<double> softmax_python(const Array<float>& logits, double temperature, std::size_t threads,
                             const std::string& isa) {
  require(logits.ndim() == 2, "logits must be (n, C)");
  const KernelTable& kernels = select_kernels(isa);
  Array<double> out(shape_of(logits));
  double* target = out.mutable_data();
  without_gil([&](Interrupt& interrupt) {
    softmax_rows(logits.data(), extent(logits, 0), extent(logits, 1), temperature, kernels,
                 thread_count(threads), target, interrupt);
  });
  return out;
}

ClassRows class_rows(const Array<float>& outputs, const Array<std::int64_t>& labels,
                     double temperature) {
  require(outputs.ndim() == 2 && labels.ndim() == 1 && extent(labels, 0) == extent(outputs, 0),
          "outputs must be (n, C) and labels (n,)");
  return {outputs.data(), labels.data(), extent(outputs, 0), extent(outputs, 1), temperature};
}

// An array to be filled with float32 or float16.
struct StoredArray {
  StoredArray(bool half, const std::vector<std::size_t>& shape)
      : array(half ? float16() : py::dtype::of<float>(), shape) {
    if (half)
      numbers.halves = static_cast<std::uint16_t*>(array.mutable_data());
    else
      numbers.floats = static_cast<float*>(array.mutable_data());
  }
  py::array array;
  StoredNumbers numbers;
};

py::array residuals_python(const Array<float>& outputs, const Array<std::int64_t>& labels,
                           double temperature, std::size_t threads, const std::string& isa,
                           bool half) {
  const ClassRows rows = class_rows(outputs, labels, temperature);
  const KernelTable& kernels = select_kernels(isa);
  const StoredArray out(half, shape_of(outputs));
  without_gil([&](Interrupt& interrupt) {
    class_residuals(rows, kernels, thread_count(threads), out.numbers, interrupt);
  });
  return out.array;
}

py::tuple sparse_python(const Array<float>& outputs, const Array<std::int64_t>& labels,
                        double temperature, std::size_t m, bool half, std::size_t threads,
                        const std::string& isa) {
  const ClassRows rows = class_rows(outputs, labels, temperature);
  require(m >= 1 && rows.columns >= 1 && rows.columns <= INT32_MAX,
          "outputs must have 1 to 2^31 - 1 columns, and m must be 1 or more");
  const KernelTable& kernels = select_kernels(isa);
  const std::size_t others = std::min(m, rows.columns - 1);
  const std::vector<std::size_t> shape{rows.n, others + 1};
  Array<std::int32_t> index(shape);
  const StoredArray value(half, shape);
  Array<float> rest(std::vector<std::size_t>{rows.n});
  const SparseResiduals out{index.mutable_data(), value.numbers, rest.mutable_data()};
  const double error = without_gil([&](Interrupt& interrupt) {
    return sparse_residuals(rows, others, kernels, thread_count(threads), out, interrupt);
  });
  return py::make_tuple(index, value.array, rest, error);
}

Array<float> logits_python(const py::array& keys, const Array<float>& weight,
                           const Array<float>& bias, std::size_t threads, const std::string& isa) {
  const LinearHead head = linear_head(weight, bias, 1);
  const Numbers stored = stored_numbers(keys, "keys", head.d, true);
  const KernelTable& kernels = select_kernels(isa);
  const std::size_t n = extent(keys, 0);
  Array<float> out(std::vector<std::size_t>{n, head.columns});
  float* target = out.mutable_data();
  const auto key = [&](std::size_t i, float* scratch) {
    return stored.read(i * head.d, head.d, scratch, kernels);
  };
  without_gil([&](Interrupt& interrupt) {
    const std::size_t workers = thread_count(threads);
    if (stored.type == NumberType::float64)
      head_logits(head, n, stored.wide(0), kernels, workers, target, interrupt);
    else
      head_logits(head, n, key, kernels, workers, target, interrupt);
  });
  return out;
}

}  // namespace

void register_residuals(py::module_& module) {
  using namespace py::literals;
  module.def("softmax", &softmax_python, py::arg("logits").noconvert(), "temperature"_a,
             "threads"_a = 0, "isa"_a = "", "Row-wise softmax(logits / temperature), float64.");
  module.def("class_residuals", &residuals_python, py::arg("outputs").noconvert(),
             py::arg("labels").noconvert(), "temperature"_a, "threads"_a = 0, "isa"_a = "",
             "half"_a = false,
             "onehot(label) - base, float32 or float16; temperature 0: the outputs are "
             "probabilities.");
  module.def("sparse_residuals", &sparse_python, py::arg("outputs").noconvert(),
             py::arg("labels").noconvert(), "temperature"_a, "m"_a, "half"_a = false,
             "threads"_a = 0, "isa"_a = "",
             "Index, value (n, s + 1), rest (n,) and the largest error; see class_residuals.");
  module.def("head_logits", &logits_python, py::arg("keys").noconvert(),
             py::arg("weight").noconvert(), py::arg("bias").noconvert(), "threads"_a = 0,
             "isa"_a = "", "Logits (n, C) of keys under a linear layer, float32.");
}

}  // namespace resmem
