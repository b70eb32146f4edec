#include <algorithm>
#include <cmath>
#include <cstring>

#include "dlpack.h"
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

float widen_bfloat16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Copies an n-dimensional strided bfloat16 tensor out in row-major order.
void copy_bfloat16(const dlpack::Tensor& tensor, int axis, const std::uint16_t* from, float*& to) {
  if (axis == tensor.ndim) {
    *to++ = widen_bfloat16(*from);
    return;
  }
  std::int64_t stride = 1;
  if (tensor.strides != nullptr)
    stride = tensor.strides[axis];
  else
    for (int i = axis + 1; i < tensor.ndim; ++i) stride *= tensor.shape[i];
  for (std::int64_t i = 0; i < tensor.shape[axis]; ++i)
    copy_bfloat16(tensor, axis + 1, from + i * stride, to);
}

bool readable_bfloat16(const dlpack::Tensor& tensor) {
  if (tensor.dtype.code != dlpack::kBfloat || tensor.dtype.bits != 16 || tensor.dtype.lanes != 1 ||
      tensor.device.type != dlpack::kCpu || tensor.ndim < 0 ||
      (tensor.ndim > 0 && tensor.shape == nullptr))
    return false;
  const std::int64_t *shape = tensor.shape, *end = shape + tensor.ndim;
  if (std::any_of(shape, end, [](std::int64_t size) { return size < 0; })) return false;
  return tensor.data != nullptr || std::find(shape, end, 0) != end;
}

// Reads what numpy.from_dlpack cannot, as NumPy has no bfloat16. Returns None, and leaves the
// capsule untouched, if it holds anything else than bfloat16 in CPU memory, was used before or
// makes no sense.
py::object bfloat16_from_dlpack(py::capsule capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor") == 0) return py::none();  // or has no name
  auto* managed = capsule.get_pointer<dlpack::ManagedTensor>();
  const dlpack::Tensor& tensor = managed->tensor;
  if (!readable_bfloat16(tensor)) return py::none();
  Array<float> out(std::vector<py::ssize_t>(tensor.shape, tensor.shape + tensor.ndim));
  float* to = out.mutable_data();
  if (out.size() > 0) {
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.data) + tensor.byte_offset;
    copy_bfloat16(tensor, 0, static_cast<const std::uint16_t*>(static_cast<const void*>(bytes)),
                  to);
  }
  capsule.set_name("used_dltensor");
  if (managed->deleter != nullptr) managed->deleter(managed);
  return std::move(out);
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
  module.def("bfloat16_from_dlpack", &bfloat16_from_dlpack, "capsule"_a,
             "A float32 copy of a CPU bfloat16 tensor, or None.");
}

}  // namespace resmem
