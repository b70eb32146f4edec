// Makes an AggregateRequest of Python objects, which the caller's arguments keep alive.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "residual_rows.h"

namespace resmem {

// Takes the rows of all segments, which must be of one store. Returns how many there are.
template <class Bound>
std::size_t take_rows(AggregateRequest& request, const py::sequence& residuals) {
  std::vector<decltype(Bound::rows)> taken;
  std::size_t total = 0;
  for (const py::handle& item : residuals) {
    require(py::isinstance<Bound>(item), "residuals must be of one store");
    const auto& bound = item.cast<const Bound&>();
    bound.check(request);
    taken.push_back(bound.rows);
    total += bound.n;
  }
  request.store = std::move(taken);
  return total;
}

inline std::size_t take_dense_rows(AggregateRequest& request, const py::sequence& residuals) {
  const std::size_t total = take_rows<BoundDenseRows>(request, residuals);
  const auto& dense = std::get<std::vector<DenseRows>>(request.store);
  const auto wide = [](const DenseRows& rows) {
    return rows.residuals.type == NumberType::float64;
  };
  const auto count = std::count_if(dense.begin(), dense.end(), wide);
  require(count == 0 || count == static_cast<std::ptrdiff_t>(dense.size()),
          "residuals must be float64 in all segments or in none");
  return total;
}

inline std::size_t take_store(AggregateRequest& request, const py::sequence& residuals) {
  for (const py::handle& item : residuals)
    if (!py::isinstance<ResidualRows>(item))
      throw py::type_error("residuals must be of type ResidualRows, got " +
                           std::string(py::str(py::type::of(item))));
  if (residuals.empty() || py::isinstance<BoundDenseRows>(residuals[0]))
    return take_dense_rows(request, residuals);
  if (py::isinstance<BoundSparseRows>(residuals[0]))
    return take_rows<BoundSparseRows>(request, residuals);
  if (py::isinstance<BoundHeadRows>(residuals[0]))
    return take_rows<BoundHeadRows>(request, residuals);
  if (py::isinstance<BoundLabelRows>(residuals[0]))
    return take_rows<BoundLabelRows>(request, residuals);
  throw std::logic_error("take_store does not know these residual rows");
}

// Takes the weights of the rows of segments: None, or for each segment float64 (n,), or the number
// of its rows if each weighs 1.
class BoundWeights {
 public:
  explicit BoundWeights(const py::object& row_weights) {
    if (row_weights.is_none()) return;
    for (const py::handle& item : row_weights.cast<py::sequence>()) {
      if (py::isinstance<py::int_>(item)) {
        segments_.push_back({nullptr, item.cast<std::size_t>()});
        continue;
      }
      const auto array = exact_array<double>(item, "contiguous float64 weights");
      require(array.ndim() == 1, "the weights of a segment must be (n,)");
      segments_.push_back({array.data(), extent(array, 0)});
      arrays_.push_back(array);
    }
  }

  const std::vector<WeightRows>& segments() const { return segments_; }
  std::size_t count() const {
    std::size_t rows = 0;
    for (const WeightRows& segment : segments_) rows += segment.n;
    return rows;
  }

 private:
  std::vector<WeightRows> segments_;
  std::vector<Array<double>> arrays_;
};

// Says what is summed and of how many rows, but not yet for which queries.
struct ResidualRequest {
  AggregateRequest request;
  std::size_t rows = 0;
  std::optional<Array<std::int64_t>> select;
  BoundWeights weights;

  ResidualRequest(const py::sequence& residuals, double sigma, std::size_t columns, double strength,
                  bool interpolate, const BoundLinearHead* head,
                  const std::optional<Array<std::int64_t>>& selected, const py::object& row_weights,
                  std::size_t queries)
      : weights(row_weights) {
    require(columns > 0, "columns must be 1 or more");
    request.columns = columns;
    request.sigma = sigma;
    request.strength = strength;
    request.interpolate = interpolate;
    if (head != nullptr) request.head = head->head;
    rows = take_store(request, residuals);
    request.weights = weights.segments();
    check_weights();
    if (!selected) return;
    select = selected;
    require(select->ndim() == 2 && extent(*select, 0) == queries, "select must be (q, t)");
    request.select = select->data();
    request.selected = extent(*select, 1);
  }

  // Refuses weights of other rows than those of the store.
  void check_weights() const {
    if (request.weights.empty()) return;
    std::visit(
        [&](const auto& segments) {
          require(segments.size() == request.weights.size(), "row_weights must be of all segments");
          for (std::size_t s = 0; s < segments.size(); ++s)
            require(segments[s].n == request.weights[s].n, "the weights of a segment must be (n,)");
        },
        request.store);
  }
  // Returns the array to fill, which is that of the base outputs if they are given.
  Array<double> out(std::optional<Array<double>>& base, std::size_t queries) {
    const std::vector<std::size_t> shape{queries, request.width()};
    request.add_to_out = base.has_value();
    if (!base) return Array<double>(shape);
    require(base->ndim() == 2 && shape_of(*base) == shape,
            "base must be (q, C), or (q, t) like select");
    return std::move(*base);
  }

  // Refuses a column that is not there. This runs without the GIL, as columns may be many.
  void check_columns(std::size_t queries) const {
    for (std::size_t i = 0; request.select != nullptr && i < queries * request.selected; ++i)
      if (static_cast<std::uint64_t>(request.select[i]) >= request.columns)
        throw std::out_of_range("column " + std::to_string(request.select[i]) +
                                " is not one of the columns 0 to " +
                                std::to_string(static_cast<std::int64_t>(request.columns) - 1));
  }
};

}  // namespace resmem
