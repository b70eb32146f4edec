#include <algorithm>
#include <cmath>

#include "execution.h"

namespace resmem {
namespace {

// Returns (largest |value|, -1), or (nan, row) for the first row that holds NaN or infinity.
template <class T>
py::tuple inspect_rows(const Array<T>& rows, const ExecutionChoice& choice) {
  require(rows.ndim() == 2, "rows must be (n, d)");
  const std::size_t n = extent(rows, 0), d = extent(rows, 1);
  const KernelTable& kernels = choice.kernels();
  const auto max_abs = [&] {
    if constexpr (std::is_same_v<T, double>)
      return kernels.filter.max_abs64;
    else
      return kernels.filter.max_abs;
  }();
  const T* data = rows.data();
  const std::size_t block =
      std::max<std::size_t>(1, (std::size_t{1} << 18) / std::max<std::size_t>(1, d));
  const std::size_t tasks = (n + block - 1) / block;
  std::vector<T> largest(tasks);
  without_gil(choice, [&](const Execution& execution) {
    parallel_for(tasks, execution.threads, execution.interrupt, [&](std::size_t task, bool) {
      const std::size_t first = task * block;
      largest[task] = max_abs(data + first * d, std::min(block, n - first) * d);
    });
  });
  T result = 0;
  for (std::size_t task = 0; task < tasks; ++task) {
    if (std::isnan(largest[task])) {
      // If another thread has written over that row meanwhile, the last of its block is named.
      std::size_t row = task * block;
      const std::size_t last = std::min(n, row + block) - 1;
      while (row < last && !std::isnan(max_abs(data + row * d, d))) ++row;
      return py::make_tuple(largest[task], row);
    }
    result = std::max(result, largest[task]);
  }
  return py::make_tuple(result, -1);
}

py::tuple inspect_python(const py::array& rows, const ExecutionChoice& choice) {
  if (py::isinstance<Array<double>>(rows))
    return inspect_rows<double>(py::reinterpret_borrow<Array<double>>(rows), choice);
  if (py::isinstance<Array<float>>(rows))
    return inspect_rows<float>(py::reinterpret_borrow<Array<float>>(rows), choice);
  throw py::type_error("rows must be a C-contiguous array of float32 or float64");
}

// Runs body(first, last) over n numbers, in parallel.
template <class Body>
void for_numbers(std::size_t n, const ExecutionChoice& choice, const Body& body) {
  without_gil(choice, [&](const Execution& execution) {
    parallel_for_rows(n, 1, execution.threads, execution.interrupt,
                      [&](std::size_t first, std::size_t last, bool) { body(first, last); });
  });
}

py::array narrow_python(const Array<float>& rows, const std::string& dtype,
                        const ExecutionChoice& execution) {
  require(rows.ndim() == 2, "rows must be (n, m)");
  const bool half = choice<bool>(dtype, {{"float16", true}, {"bfloat16", false}});
  const KernelTable& kernels = execution.kernels();
  py::array out(half ? float16() : py::dtype::of<std::uint16_t>(), shape_of(rows));
  auto* target = static_cast<std::uint16_t*>(out.mutable_data());
  const auto narrow = half ? kernels.numbers.narrow_float16 : kernels.numbers.narrow_bfloat16;
  for_numbers(extent(rows, 0) * extent(rows, 1), execution,
              [&](std::size_t first, std::size_t last) {
                narrow(rows.data() + first, target + first, last - first);
              });
  return out;
}

Array<float> widen_python(const py::array& rows, const ExecutionChoice& execution) {
  require(rows.ndim() == 2, "rows must be (n, m)");
  const Numbers numbers = stored_numbers(rows, "rows", extent(rows, 1));
  const KernelTable& kernels = execution.kernels();
  Array<float> out(shape_of(rows));
  float* target = out.mutable_data();
  for_numbers(extent(rows, 0) * extent(rows, 1), execution,
              [&](std::size_t first, std::size_t last) {
                const float* read = numbers.read(first, last - first, target + first, kernels);
                if (read != target + first) std::copy_n(read, last - first, target + first);
              });
  return out;
}

}  // namespace

void register_arrays(py::module_& module) {
  using namespace py::literals;
  module.def("inspect_rows", &inspect_python, py::arg("rows").noconvert(), execution_argument(),
             "(largest absolute value, first row with NaN or infinity or -1).");
  module.def("narrow", &narrow_python, py::arg("rows").noconvert(), "dtype"_a, execution_argument(),
             "Rounded to float16, or to bfloat16 (as uint16).");
  module.def("widen", &widen_python, py::arg("rows").noconvert(), execution_argument(),
             "float32 from float16 or bfloat16 (uint16), exactly.");
}

}  // namespace resmem
