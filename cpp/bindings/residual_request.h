// An AggregateRequest from Python objects, kept alive by the caller's arguments.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "../residuals/aggregate.h"
#include "bindings.h"
#include "linear_head.h"

namespace resmem {

inline DenseSegment dense_segment(const py::tuple& parts, std::size_t columns) {
  require(parts.size() == 2, "a dense segment must be ('dense', residuals)");
  DenseSegment segment;
  segment.residuals = stored_numbers(parts[1], "residuals", columns, true);
  segment.n = py::len(parts[1]);
  require(segment.residuals.type != NumberType::bfloat16, "residuals must be float32 or float16");
  return segment;
}

inline SparseSegment sparse_segment(const py::tuple& parts, std::size_t) {
  require(parts.size() == 4, "a sparse segment must be ('sparse', index, value, rest)");
  SparseSegment segment;
  const auto index = exact_array<std::int32_t>(parts[1], "a contiguous int32 index");
  require(index.ndim() == 2, "index must be (n, s + 1)");
  segment.index = index.data();
  segment.n = extent(index, 0);
  segment.width = extent(index, 1);
  segment.value = stored_numbers(parts[2], "value", segment.width);
  require(segment.value.type != NumberType::bfloat16, "value must be float32 or float16");
  const auto rest = exact_array<float>(parts[3], "a contiguous float32 rest");
  require(py::len(parts[2]) == segment.n && rest.ndim() == 1 && extent(rest, 0) == segment.n,
          "index and value must be (n, s + 1), rest (n,)");
  segment.rest = rest.data();
  return segment;
}

inline HeadSegment head_segment(const py::tuple& parts, std::size_t d) {
  require(parts.size() == 3, "a head segment must be ('head', keys, labels)");
  HeadSegment segment;
  segment.keys = stored_numbers(parts[1], "keys", d);
  const auto labels = exact_array<std::int64_t>(parts[2], "contiguous int64 labels");
  require(labels.ndim() == 1 && extent(labels, 0) == py::len(parts[1]),
          "keys must be (n, d) and labels (n,)");
  segment.labels = labels.data();
  segment.n = extent(labels, 0);
  return segment;
}

// All segments, which must be of the first one's kind; returns how many rows they hold.
template <class Segment>
std::size_t take_segments(ResidualStore& store, const py::sequence& segments, const char* kind,
                          Segment (*take)(const py::tuple&, std::size_t), std::size_t columns) {
  std::vector<Segment> taken;
  std::size_t total = 0;
  for (const py::handle& item : segments) {
    const auto parts = py::reinterpret_borrow<py::tuple>(item);
    require(parts[0].cast<std::string>() == kind, "segments must be of one kind");
    taken.push_back(take(parts, columns));
    total += taken.back().n;
  }
  store = std::move(taken);
  return total;
}

inline std::size_t take_store(AggregateRequest& request, const py::sequence& segments) {
  for (const py::handle& item : segments)
    require(py::isinstance<py::tuple>(item) && py::len(item) > 0,
            "a segment must be a tuple that begins with its kind");
  const std::string kind =
      segments.empty() ? "dense" : segments[0].cast<py::tuple>()[0].cast<std::string>();
  if (kind == "dense") {
    const std::size_t total =
        take_segments(request.store, segments, "dense", dense_segment, request.columns);
    const auto& dense = std::get<std::vector<DenseSegment>>(request.store);
    const auto wide = [](const DenseSegment& s) { return s.residuals.type == NumberType::float64; };
    const auto count = std::count_if(dense.begin(), dense.end(), wide);
    require(count == 0 || count == static_cast<std::ptrdiff_t>(dense.size()),
            "residuals must be float64 in all segments or in none");
    return total;
  }
  if (kind == "sparse")
    return take_segments(request.store, segments, "sparse", sparse_segment, request.columns);
  require(kind == "head", "a segment's kind must be 'dense', 'sparse' or 'head'");
  require(request.head.columns == request.columns, "head must have a row per column");
  return take_segments(request.store, segments, "head", head_segment, request.head.d);
}

// (weight, bias, temperature)
inline LinearHead head_from(const py::tuple& parts) {
  require(parts.size() == 3, "head must be (weight, bias, temperature)");
  return linear_head(exact_array<float>(parts[0], "a contiguous float32 weight"),
                     exact_array<float>(parts[1], "a contiguous float32 bias"),
                     parts[2].cast<double>());
}

// What is summed, of how many rows; not yet of which queries.
struct ResidualRequest {
  AggregateRequest request;
  std::size_t rows = 0;
  std::optional<Array<std::int64_t>> select;

  ResidualRequest(const py::sequence& segments, double sigma, std::size_t columns, double strength,
                  std::size_t threads, const std::optional<py::tuple>& head,
                  const std::optional<Array<std::int64_t>>& selected, std::size_t queries) {
    require(columns > 0, "columns must be 1 or more");
    request.columns = columns;
    request.sigma = sigma;
    request.strength = strength;
    request.threads = thread_count(threads);
    if (head) request.head = head_from(*head);
    rows = take_store(request, segments);
    if (!selected) return;
    select = selected;
    require(select->ndim() == 2 && extent(*select, 0) == queries, "select must be (q, t)");
    request.select = select->data();
    request.selected = extent(*select, 1);
  }

  // The array to fill: the base outputs, or a new one.
  Array<double> out(std::optional<Array<double>>& base, std::size_t queries) {
    const std::vector<std::size_t> shape{queries, request.width()};
    request.add_to_out = base.has_value();
    if (!base) return Array<double>(shape);
    require(base->ndim() == 2 && shape_of(*base) == shape,
            "base must be (q, C), or (q, t) like select");
    return std::move(*base);
  }

  // Every column asked for must be there. Called without the GIL, as columns may be many.
  void check_columns(std::size_t queries) const {
    for (std::size_t i = 0; request.select != nullptr && i < queries * request.selected; ++i)
      if (static_cast<std::uint64_t>(request.select[i]) >= request.columns)
        throw std::out_of_range("column " + std::to_string(request.select[i]) +
                                " is not one of the columns 0 to " +
                                std::to_string(static_cast<std::int64_t>(request.columns) - 1));
  }
};

}  // namespace resmem
