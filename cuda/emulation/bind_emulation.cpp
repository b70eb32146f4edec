// Python's way to the kernels in the emulation, for tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "../codes.cuh"
#include "../launch.h"

namespace resmem {
namespace {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

// Returns codes (n, depth) and, (n,) each: squares, errors, exponents, rows.
py::tuple code_vectors_python(const Array<float>& vectors, const Array<float>& offset,
                              unsigned block_threads, std::uint64_t seed) {
  require(vectors.ndim() == 2 && offset.ndim() == 1 && offset.shape(0) == vectors.shape(1),
          "vectors must be (n, d) and offset (d,)");
  const auto n = static_cast<std::size_t>(vectors.shape(0));
  const auto d = static_cast<unsigned>(vectors.shape(1));
  Array<std::int8_t> codes(std::vector<std::size_t>{n, device::depth_of(d)});
  std::vector<device::CodeFacts> facts(n);
  const std::size_t warps = block_threads / simt::kWarp;
  simt::emulation_seed() = seed;
  if (n > 0)
    simt::launch(&device::code_vectors, {static_cast<unsigned>((n + warps - 1) / warps), 1},
                 block_threads, 0, vectors.data(), n, d, offset.data(), codes.mutable_data(),
                 facts.data());
  Array<std::int32_t> squares(n), exponents(n);
  Array<float> errors(n);
  Array<std::uint32_t> rows(n);
  for (std::size_t i = 0; i < n; ++i) {
    squares.mutable_data()[i] = facts[i].square;
    errors.mutable_data()[i] = facts[i].error;
    exponents.mutable_data()[i] = facts[i].exponent;
    rows.mutable_data()[i] = facts[i].row;
  }
  return py::make_tuple(codes, squares, errors, exponents, rows);
}

}  // namespace
}  // namespace resmem

PYBIND11_MODULE(_cuda_emulated, module) {
  using namespace pybind11::literals;
  module.doc() = "Kernels of the device, executed on the CPU. Private, and for tests alone.";
  module.def("code_vectors", &resmem::code_vectors_python, pybind11::arg("vectors").noconvert(),
             pybind11::arg("offset").noconvert(), "block_threads"_a = 128, "seed"_a = 1,
             "Codes (n, depth), and squares, errors, exponents and rows (n,).");
}
