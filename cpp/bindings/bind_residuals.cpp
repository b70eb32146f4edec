#include "../residuals/head.h"
#include "../residuals/residual_store.h"
#include "execution.h"
#include "residual_rows.h"

namespace resmem {
namespace {

Array<double> softmax_python(const Array<float>& logits, double temperature,
                             const ExecutionChoice& choice) {
  require(logits.ndim() == 2, "logits must be (n, C)");
  Array<double> out(shape_of(logits));
  double* target = out.mutable_data();
  without_gil(choice, [&](const Execution& execution) {
    softmax_rows(logits.data(), extent(logits, 0), extent(logits, 1), temperature, execution,
                 target);
  });
  return out;
}

ClassRows class_rows(const Array<float>& outputs, const Array<std::int64_t>& labels,
                     double temperature) {
  require(outputs.ndim() == 2 && labels.ndim() == 1 && extent(labels, 0) == extent(outputs, 0),
          "outputs must be (n, C) and labels (n,)");
  return {outputs.data(), labels.data(), extent(outputs, 0), extent(outputs, 1), temperature};
}

// Makes an array of float32 or float16, which is filled afterwards.
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
                           double temperature, bool half, const ExecutionChoice& choice) {
  const ClassRows rows = class_rows(outputs, labels, temperature);
  const StoredArray out(half, shape_of(outputs));
  without_gil(choice,
              [&](const Execution& execution) { class_residuals(rows, execution, out.numbers); });
  return out.array;
}

py::tuple sparse_python(const Array<float>& outputs, const Array<std::int64_t>& labels,
                        double temperature, std::size_t m, bool half,
                        const ExecutionChoice& choice) {
  const ClassRows rows = class_rows(outputs, labels, temperature);
  require(m >= 1 && rows.columns >= 1 && rows.columns <= INT32_MAX,
          "outputs must have 1 to 2^31 - 1 columns, and m must be 1 or more");
  const std::size_t others = std::min(m, rows.columns - 1);
  const std::vector<std::size_t> shape{rows.n, others + 1};
  Array<std::int32_t> index(shape);
  const StoredArray value(half, shape);
  Array<float> rest(std::vector<std::size_t>{rows.n});
  const SparseResiduals out{index.mutable_data(), value.numbers, rest.mutable_data()};
  const double error = without_gil(choice, [&](const Execution& execution) {
    return sparse_residuals(rows, others, execution, out);
  });
  return py::make_tuple(index, value.array, rest, error);
}

Array<float> logits_python(const py::array& keys, const BoundLinearHead& layer,
                           const ExecutionChoice& choice) {
  const LinearHead& head = layer.head;
  const Numbers stored = stored_numbers(keys, "keys", head.d, true);
  const std::size_t n = extent(keys, 0);
  Array<float> out(std::vector<std::size_t>{n, head.columns});
  float* target = out.mutable_data();
  without_gil(choice, [&](const Execution& execution) {
    const auto key = [&](std::size_t i, float* scratch) {
      return stored.read(i * head.d, head.d, scratch, execution.kernels);
    };
    if (stored.type == NumberType::float64)
      head_logits(head, n, stored.wide(0), execution, target);
    else
      head_logits(head, n, key, execution, target);
  });
  return out;
}

}  // namespace

void register_residuals(py::module_& module) {
  using namespace py::literals;
  module.def("softmax", &softmax_python, py::arg("logits").noconvert(), "temperature"_a,
             execution_argument(), "Row-wise softmax(logits / temperature), float64.");
  module.def("class_residuals", &residuals_python, py::arg("outputs").noconvert(),
             py::arg("labels").noconvert(), "temperature"_a, "half"_a = false, execution_argument(),
             "onehot(label) - base, float32 or float16; temperature 0: the outputs are "
             "probabilities.");
  module.def("sparse_residuals", &sparse_python, py::arg("outputs").noconvert(),
             py::arg("labels").noconvert(), "temperature"_a, "m"_a, "half"_a = false,
             execution_argument(),
             "Index, value (n, s + 1), rest (n,) and the largest error; see class_residuals.");
  py::class_<ResidualRows>(module, "ResidualRows", "The residuals of a segment's rows.")
      .def("__len__", [](const ResidualRows& rows) { return rows.n; });
  py::class_<BoundDenseRows, ResidualRows>(module, "DenseRows", "All residuals, (n, C).")
      .def(py::init<const py::array&>(), "residuals"_a);
  py::class_<BoundSparseRows, ResidualRows>(module, "SparseRows", "A few residuals of each row.")
      .def(py::init<const Array<std::int32_t>&, const py::array&, const Array<float>&>(),
           py::arg("index").noconvert(), "value"_a, py::arg("rest").noconvert());
  py::class_<BoundHeadRows, ResidualRows>(module, "HeadRows", "Keys and labels, for a LinearHead.")
      .def(py::init<const py::array&, const Array<std::int64_t>&>(), "keys"_a,
           py::arg("labels").noconvert());
  py::class_<BoundLabelRows, ResidualRows>(module, "LabelRows", "Classes, as one-hot rows.")
      .def(py::init<const Array<std::int64_t>&>(), py::arg("labels").noconvert());
  py::class_<BoundLinearHead>(module, "LinearHead", "A base model's last layer.")
      .def(py::init<const Array<float>&, const Array<float>&, double>(),
           py::arg("weight").noconvert(), py::arg("bias").noconvert(), "temperature"_a = 1.0);
  module.def("head_logits", &logits_python, py::arg("keys").noconvert(), "head"_a,
             execution_argument(), "Logits (n, C) of keys under a linear layer, float32.");
}

}  // namespace resmem
