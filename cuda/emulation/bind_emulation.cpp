// Lets tests in Python run single kernels in the emulation, and search on the played device.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "../../cpp/bindings/bind_device.h"
#include "../arrange.cuh"
#include "../engine.h"
#include "../filter.cuh"
#include "../rescore.cuh"
#include "../stream.cuh"
#include "bind_faults.h"

namespace resmem {
namespace {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

// Returns codes (n, depth) and, (n,) each: squares, errors, exponents.
py::tuple code_vectors_python(const Array<float>& vectors, const Array<double>& offset, int kind,
                              bool queries, double largest_square, unsigned block_threads,
                              std::uint64_t seed) {
  device::CodeArgs<float> args = {};
  args.kind = static_cast<device::KeyKind>(kind);
  args.d = static_cast<unsigned>(vectors.shape(1));
  const unsigned dimensions = device::point_dimensions(args.kind, args.d);
  require(vectors.ndim() == 2 && offset.ndim() == 1 && offset.shape(0) == dimensions,
          "vectors must be (n, d) and offset (d,), or (d + 1,) for inner products");
  args.n = static_cast<std::size_t>(vectors.shape(0));
  Array<std::int8_t> codes(std::vector<std::size_t>{args.n, device::depth_of(dimensions)});
  std::vector<device::CodeFacts> facts(args.n);
  std::uint64_t largest;
  std::memcpy(&largest, &largest_square, sizeof largest);
  args.vectors = vectors.data();
  args.queries = queries;
  args.largest_square = &largest;
  args.offset = offset.data();
  args.codes = codes.mutable_data();
  args.facts = facts.data();
  const std::size_t warps = block_threads / simt::kWarp;
  simt::emulation_seed() = seed;
  if (args.n > 0)
    simt::run_grid(&device::code_vectors<float>,
                   {static_cast<unsigned>((args.n + warps - 1) / warps), 1}, block_threads, 0,
                   args);
  const auto count = static_cast<py::ssize_t>(args.n);
  Array<std::int32_t> squares(count), exponents(count);
  Array<float> errors(count);
  for (std::size_t i = 0; i < args.n; ++i) {
    squares.mutable_data()[i] = facts[i].square;
    errors.mutable_data()[i] = facts[i].error;
    exponents.mutable_data()[i] = facts[i].exponent;
  }
  return py::make_tuple(codes, squares, errors, exponents);
}

// Holds rows or queries, coded and in tiles, as Python hands them over: codes (n, depth), and
// squares, exponents and errors (n,).
struct Coded {
  Coded(const Array<std::int8_t>& bytes, const Array<std::int32_t>& squares,
        const Array<std::int32_t>& exponents, const Array<float>& errors)
      : codes(bytes), n(static_cast<unsigned>(codes.shape(0))) {
    require(codes.ndim() == 2 && squares.size() == codes.shape(0) &&
                exponents.size() == codes.shape(0) && errors.size() == codes.shape(0),
            "codes must be (n, depth), and squares, exponents and errors (n,)");
    for (unsigned i = 0; i < n; ++i)
      facts.push_back({squares.data()[i], errors.data()[i], exponents.data()[i], i});
    tiles.resize((n + device::kTile - 1) / device::kTile);
    simt::run_grid(&device::describe_tiles, {static_cast<unsigned>((tiles.size() + 7) / 8), 1},
                   device::kArrangeThreads, 0, facts.data(), n, tiles.data());
  }
  std::vector<device::QueryState> with(const Array<double>& reach) const {
    std::vector<device::QueryState> queries;
    for (unsigned i = 0; i < n; ++i)
      queries.push_back({facts[i].square, facts[i].error, facts[i].exponent, i, reach.data()[i],
                         HUGE_VALF, 0, distance_of_squares(1)});
    return queries;
  }

  Array<std::int8_t> codes;
  unsigned n;
  std::vector<device::CodeFacts> facts;
  std::vector<device::TileFacts> tiles;
};

// Hits as Python has them: rows and products (q, capacity, 2), counts (q,).
class Lists {
 public:
  Lists(Array<std::uint32_t>& hit_counts, const Array<std::int32_t>& pairs)
      : places_(static_cast<std::size_t>(pairs.size() / 2)), known_(places_.size()) {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      places_[i] = static_cast<std::uint32_t>(pairs.data()[2 * i]);
      known_[i] = device::Known::product(pairs.data()[2 * i + 1]);
    }
    lists = {hit_counts.mutable_data(), places_.data(), known_.data(),
             static_cast<unsigned>(pairs.shape(1))};
  }
  void put_into(Array<std::int32_t>& pairs) const {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      pairs.mutable_data()[2 * i] = static_cast<std::int32_t>(places_[i]);
      pairs.mutable_data()[2 * i + 1] = known_[i].product();
    }
  }
  device::HitLists lists;

 private:
  std::vector<std::uint32_t> places_;
  std::vector<device::Known> known_;
};

// Returns the counts of hits (q,), and the row and the product of those that were kept, (q,
// capacity, 2).
py::tuple filter_python(const Coded& queries, const Coded& rows, const Array<double>& reach,
                        unsigned capacity, std::uint64_t seed, bool streamed) {
  require(!streamed || queries.n <= device::kStreamQueries, "at most 16 queries are streamed");
  require(queries.codes.shape(1) == rows.codes.shape(1) && reach.size() == queries.codes.shape(0),
          "queries and rows must have one depth, and each query a reach");
  const std::vector<device::QueryState> states = queries.with(reach);
  Array<std::uint32_t> counts(queries.n);
  Array<std::int32_t> hits(std::vector<std::size_t>{queries.n, capacity, 2});
  std::fill_n(counts.mutable_data(), queries.n, 0U);
  std::fill_n(hits.mutable_data(), hits.size(), -1);
  Lists lists(counts, hits);
  device::FilterArgs args = {};
  args.query_codes = queries.codes.data();
  args.queries = states.data();
  args.query_count = queries.n;
  args.row_codes = rows.codes.data();
  args.rows = rows.facts.data();
  args.row_tiles = rows.tiles.data();
  args.row_count = rows.n;
  args.depth = static_cast<unsigned>(rows.codes.shape(1));
  args.hidden.rows = rows.n;
  args.hits = lists.lists;
  simt::emulation_seed() = seed;
  const auto row_tiles = static_cast<unsigned>(rows.tiles.size());
  if (streamed)
    simt::run_grid(&device::stream_rows, {row_tiles, 1}, device::kStreamThreads, 0, args);
  else
    simt::run_grid(&device::filter_tiles,
                   {static_cast<unsigned>(queries.tiles.size()) * row_tiles, 1},
                   device::kFilterThreads, device::kFilterShared, args);
  lists.put_into(hits);
  return py::make_tuple(counts, hits);
}

// Returns the reach (q,), the counts (q,) and the rows of the hits that are left (q, capacity).
py::tuple select_python(const Coded& queries, const Coded& rows, const Array<double>& reach,
                        std::size_t k, const Array<std::uint32_t>& counts,
                        const Array<std::int32_t>& hits, std::uint64_t seed) {
  require(hits.ndim() == 3 && hits.shape(0) == queries.codes.shape(0) && hits.shape(2) == 2 &&
              counts.size() == queries.codes.shape(0) && reach.size() == counts.size() && k > 0,
          "hits must be (q, capacity, 2), counts and reach (q,), and k at least 1");
  Array<std::uint32_t> kept(counts.size());
  Array<std::int32_t> left(std::vector<py::ssize_t>{hits.shape(0), hits.shape(1)});
  std::copy_n(counts.data(), counts.size(), kept.mutable_data());
  const Lists lists(kept, hits);
  std::vector<device::QueryState> states = queries.with(reach);
  device::Counters counters = {};
  simt::emulation_seed() = seed;
  simt::run_grid(&device::tighten_reach, {queries.n, 1}, device::kSelectThreads,
                 device::kSelectShared,
                 device::SelectArgs{states.data(), rows.facts.data(), k, lists.lists, &counters});
  Array<double> found(reach.size());
  for (unsigned i = 0; i < queries.n; ++i) found.mutable_data()[i] = states[i].reach;
  std::copy_n(lists.lists.places, left.size(), left.mutable_data());
  return py::make_tuple(found, kept, left);
}

// Returns what numbers (n,) are sorted by their lowest bits into, and where each was before.
py::tuple sort_python(const Array<std::uint32_t>& numbers, unsigned bits, std::uint64_t seed) {
  const auto n = static_cast<std::size_t>(numbers.size());
  std::vector<std::uint32_t> keys(numbers.data(), numbers.data() + n), values(n), other_keys(n),
      other_values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<std::uint32_t>(i);
  std::vector<std::uint32_t> counts(std::size_t{device::kSortDigits} *
                                    device::blocks_for(n, device::kSortChunk));
  simt::emulation_seed() = seed;
  const device::Sorting sorting{keys.data(), values.data(), other_keys.data(), other_values.data(),
                                counts.data()};
  const device::Sorting sorted = device::sorted_by(device::StreamHandle{}, sorting, n, bits);
  device::wait(device::StreamHandle{});
  const auto count = static_cast<py::ssize_t>(n);
  Array<std::uint32_t> out(count), from(count);
  std::copy_n(sorted.keys, n, out.mutable_data());
  std::copy_n(sorted.values, n, from.mutable_data());
  return py::make_tuple(out, from);
}

Array<std::uint32_t> permutation_python(std::uint32_t n) {
  Array<std::uint32_t> out(n);
  for (std::uint32_t i = 0; i < n; ++i) out.mutable_data()[i] = device::permuted(i, n);
  return out;
}

}  // namespace
}  // namespace resmem

PYBIND11_MODULE(_cuda_emulated, module) {
  using namespace pybind11::literals;
  module.doc() = "A device that is played on the CPU. Private, and for tests alone.";
  resmem::register_device(module);
  resmem::register_device_search(module);
  resmem::register_device_aggregate(module);
  resmem::register_faults(module);
  module.def("code_vectors", &resmem::code_vectors_python, pybind11::arg("vectors").noconvert(),
             pybind11::arg("offset").noconvert(), "kind"_a = 0, "queries"_a = false,
             "largest_square"_a = 0.0, "block_threads"_a = 128, "seed"_a = 1,
             "Codes (n, depth), and squares, errors and exponents (n,).");
  pybind11::class_<resmem::Coded>(module, "Coded", "Rows or queries, coded and in tiles of 128.")
      .def(pybind11::init<const resmem::Array<std::int8_t>&, const resmem::Array<std::int32_t>&,
                          const resmem::Array<std::int32_t>&, const resmem::Array<float>&>(),
           pybind11::arg("codes").noconvert(), pybind11::arg("squares").noconvert(),
           pybind11::arg("exponents").noconvert(), pybind11::arg("errors").noconvert());
  module.def("filter", &resmem::filter_python, "queries"_a, "rows"_a,
             pybind11::arg("reach").noconvert(), "capacity"_a, "seed"_a = 1, "streamed"_a = false,
             "Counts of hits (q,), and rows and products (q, capacity, 2), as they came.");
  module.def("select", &resmem::select_python, "queries"_a, "rows"_a,
             pybind11::arg("reach").noconvert(), "k"_a, pybind11::arg("counts").noconvert(),
             pybind11::arg("hits").noconvert(), "seed"_a = 1,
             "Reach, counts and hits that are left, once the k-th nearest hit bounds the reach.");
  module.def("sort", &resmem::sort_python, pybind11::arg("numbers").noconvert(), "bits"_a,
             "seed"_a = 1, "Numbers sorted by their lowest bits, and where each was before.");
  module.def("permutation", &resmem::permutation_python, "n"_a, "The seeded permutation, (n,).");
  module.def(
      "set_seed", [](std::uint64_t seed) { resmem::simt::emulation_seed() = seed; }, "seed"_a,
      "Chooses the order of blocks and threads.");
}
