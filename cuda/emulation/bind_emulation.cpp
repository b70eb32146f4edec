// Lets tests in Python run the kernels in the emulation.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "../codes.cuh"
#include "../filter.cuh"
#include "../rescore.cuh"
#include "../select.cuh"
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

// Holds rows or queries, coded and in tiles, as Python hands them over: codes (n, depth), squares
// and errors (n,), exponents and errors of tiles.
struct Coded {
  Coded(const Array<std::int8_t>& bytes, const Array<std::int32_t>& squares,
        const Array<std::int32_t>& exponents, const Array<float>& errors)
      : codes(bytes), n(static_cast<unsigned>(codes.shape(0))) {
    const std::size_t count = (n + device::kTile - 1) / device::kTile;
    require(codes.ndim() == 2 && squares.size() == codes.shape(0) &&
                exponents.size() == static_cast<py::ssize_t>(count) &&
                errors.size() == codes.shape(0),
            "codes must be (n, depth), squares and errors (n,), exponents one a tile");
    facts.resize(n);
    tiles.resize(count);
    for (unsigned i = 0; i < n; ++i) {
      device::TileFacts& tile = tiles[i / device::kTile];
      tile.exponent = exponents.data()[i / device::kTile];
      tile.error =
          i % device::kTile == 0 ? errors.data()[i] : std::max(tile.error, errors.data()[i]);
      facts[i] = {squares.data()[i], errors.data()[i], tile.exponent, i};
    }
  }
  std::vector<device::QueryFacts> with(const Array<double>& reach) const {
    std::vector<device::QueryFacts> queries;
    for (unsigned i = 0; i < n; ++i)
      queries.push_back({facts[i].square, facts[i].error, reach.data()[i]});
    return queries;
  }

  Array<std::int8_t> codes;
  unsigned n;
  std::vector<device::CodeFacts> facts;
  std::vector<device::TileFacts> tiles;
};

// A hit is a row and a score for Python.
device::Hit* hits_in(Array<std::int32_t>& pairs) {
  static_assert(sizeof(device::Hit) == 2 * sizeof(std::int32_t));
  return reinterpret_cast<device::Hit*>(pairs.mutable_data());
}

// Returns the counts of hits (q,), and the row and the score of those that were kept, (q,
// capacity, 2).
py::tuple filter_python(const Coded& queries, const Coded& rows, const Array<double>& reach,
                        unsigned capacity, std::uint64_t seed) {
  require(queries.codes.shape(1) == rows.codes.shape(1) && reach.size() == queries.codes.shape(0),
          "queries and rows must have one depth, and each query a reach");
  const std::vector<device::QueryFacts> facts = queries.with(reach);
  Array<std::uint32_t> counts(queries.n);
  Array<std::int32_t> hits(std::vector<std::size_t>{queries.n, capacity, 2});
  std::fill_n(counts.mutable_data(), queries.n, 0U);
  std::fill_n(hits.mutable_data(), hits.size(), -1);
  simt::emulation_seed() = seed;
  simt::launch(
      &device::filter_tiles,
      {static_cast<unsigned>(queries.tiles.size()), static_cast<unsigned>(rows.tiles.size())},
      device::kFilterThreads, device::kFilterShared,
      device::FilterArgs{queries.codes.data(), facts.data(), queries.tiles.data(), queries.n,
                         rows.codes.data(), rows.facts.data(), rows.tiles.data(), rows.n,
                         static_cast<unsigned>(rows.codes.shape(1)), capacity,
                         counts.mutable_data(), hits_in(hits)});
  return py::make_tuple(counts, hits);
}

// Returns the keys (q, capacity) of hits (q, capacity, 2), of which counts (q,) are there.
Array<double> rescore_python(const Array<float>& queries, const Array<float>& rows, int kind,
                             const Array<std::uint32_t>& counts, Array<std::int32_t> hits,
                             std::uint64_t seed) {
  require(queries.ndim() == 2 && rows.ndim() == 2 && queries.shape(1) == rows.shape(1) &&
              hits.ndim() == 3 && hits.shape(2) == 2 && hits.shape(0) == queries.shape(0) &&
              counts.size() == queries.shape(0) && kind >= 0 && kind <= 2,
          "queries must be (q, d), rows (n, d), counts (q,) and hits (q, capacity, 2)");
  const auto q = static_cast<unsigned>(queries.shape(0));
  const std::vector<std::size_t> shape{q, static_cast<std::size_t>(hits.shape(1))};
  Array<double> keys(shape);
  std::fill_n(keys.mutable_data(), shape[0] * shape[1], -1.0);
  simt::emulation_seed() = seed;
  simt::launch(
      &device::rescore_hits, {q, 1}, device::kRescoreThreads, 0,
      device::RescoreArgs{queries.data(), rows.data(), static_cast<unsigned>(queries.shape(1)),
                          static_cast<device::KeyKind>(kind), counts.data(), hits_in(hits),
                          static_cast<unsigned>(shape[1]), keys.mutable_data()});
  return keys;
}

// Returns the reach (q,), the counts (q,) and the hits (q, capacity, 2) after a selection.
py::tuple select_python(const Coded& queries, const Coded& rows, Array<double> reach, unsigned k,
                        const Array<std::uint32_t>& counts, const Array<std::int32_t>& hits,
                        std::uint64_t seed) {
  require(hits.ndim() == 3 && hits.shape(0) == queries.codes.shape(0) && hits.shape(2) == 2 &&
              counts.size() == queries.codes.shape(0) && reach.size() == counts.size() && k > 0,
          "hits must be (q, capacity, 2), counts and reach (q,), and k at least 1");
  Array<std::uint32_t> kept(counts.size());
  Array<std::int32_t> left(std::vector<py::ssize_t>{hits.shape(0), hits.shape(1), 2});
  std::copy_n(counts.data(), counts.size(), kept.mutable_data());
  std::copy_n(hits.data(), hits.size(), left.mutable_data());
  std::vector<device::QueryFacts> facts = queries.with(reach);
  simt::emulation_seed() = seed;
  simt::launch(
      &device::tighten_reach, {queries.n, 1}, device::kSelectThreads, device::kSelectShared,
      device::SelectArgs{facts.data(), queries.tiles.data(), rows.facts.data(),
                         static_cast<unsigned>(rows.codes.shape(1)), k,
                         static_cast<unsigned>(hits.shape(1)), kept.mutable_data(), hits_in(left)});
  Array<double> found(reach.size());
  for (unsigned i = 0; i < queries.n; ++i) found.mutable_data()[i] = facts[i].reach;
  return py::make_tuple(found, kept, left);
}

}  // namespace
}  // namespace resmem

PYBIND11_MODULE(_cuda_emulated, module) {
  using namespace pybind11::literals;
  module.doc() = "Kernels of the device, executed on the CPU. Private, and for tests alone.";
  module.def("code_vectors", &resmem::code_vectors_python, pybind11::arg("vectors").noconvert(),
             pybind11::arg("offset").noconvert(), "block_threads"_a = 128, "seed"_a = 1,
             "Codes (n, depth), and squares, errors, exponents and rows (n,).");
  pybind11::class_<resmem::Coded>(module, "Coded", "Rows or queries, coded and in tiles of 128.")
      .def(pybind11::init<const resmem::Array<std::int8_t>&, const resmem::Array<std::int32_t>&,
                          const resmem::Array<std::int32_t>&, const resmem::Array<float>&>(),
           pybind11::arg("codes").noconvert(), pybind11::arg("squares").noconvert(),
           pybind11::arg("exponents").noconvert(), pybind11::arg("errors").noconvert());
  module.def("filter", &resmem::filter_python, "queries"_a, "rows"_a,
             pybind11::arg("reach").noconvert(), "capacity"_a, "seed"_a = 1,
             "Counts of hits (q,), and rows and scores (q, capacity, 2), as they came.");
  module.def("select", &resmem::select_python, "queries"_a, "rows"_a,
             pybind11::arg("reach").noconvert(), "k"_a, pybind11::arg("counts").noconvert(),
             pybind11::arg("hits").noconvert(), "seed"_a = 1,
             "Reach, counts and hits that are left, once the k-th nearest hit bounds the reach.");
  module.def("rescore", &resmem::rescore_python, pybind11::arg("queries").noconvert(),
             pybind11::arg("rows").noconvert(), "kind"_a, pybind11::arg("counts").noconvert(),
             pybind11::arg("hits").noconvert(), "seed"_a = 1,
             "Canonical keys (q, capacity) of hits: squared distance, cosine or inner product.");
}
