// Holds the residuals of a segment's rows as Python hands them to the core, with their arrays.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../residuals/aggregate.h"
#include "bindings.h"

namespace resmem {

// The base class of the rows of every store.
struct ResidualRows {
  std::vector<py::object> arrays;  // what the core's pointers point into
  std::size_t n = 0;

  explicit ResidualRows(std::vector<py::object> kept) : arrays(std::move(kept)) {}
  virtual ~ResidualRows() = default;
  ResidualRows(const ResidualRows&) = delete;
  ResidualRows& operator=(const ResidualRows&) = delete;
};

// Returns the number of columns of a matrix.
inline std::size_t columns_of(const py::array& array, const char* name) {
  require(array.ndim() == 2, (std::string(name) + " must be a matrix").c_str());
  return extent(array, 1);
}

struct BoundDenseRows : ResidualRows {
  DenseRows rows;
  std::size_t columns;

  explicit BoundDenseRows(const py::array& residuals) : ResidualRows({residuals}) {
    columns = columns_of(residuals, "residuals");
    rows.residuals = stored_numbers(residuals, "residuals", columns, true);
    require(rows.residuals.type != NumberType::bfloat16, "residuals must be float32 or float16");
    rows.n = n = extent(residuals, 0);
  }

  void check(const AggregateRequest& request) const {
    require(columns == request.columns,
            ("residuals must have " + std::to_string(request.columns) + " columns").c_str());
  }
};

struct BoundSparseRows : ResidualRows {
  SparseRows rows;

  BoundSparseRows(const Array<std::int32_t>& index, const py::array& value,
                  const Array<float>& rest)
      : ResidualRows({index, value, rest}) {
    rows.width = columns_of(index, "index");
    rows.index = index.data();
    rows.value = stored_numbers(value, "value", rows.width);
    require(rows.value.type != NumberType::bfloat16, "value must be float32 or float16");
    rows.n = n = extent(index, 0);
    require(extent(value, 0) == n && rest.ndim() == 1 && extent(rest, 0) == n,
            "index and value must be (n, s + 1), rest (n,)");
    rows.rest = rest.data();
  }

  // The classes in `index` may be any numbers: they are checked where they are read.
  void check(const AggregateRequest&) const {}
};

struct BoundHeadRows : ResidualRows {
  HeadRows rows;
  std::size_t d;

  BoundHeadRows(const py::array& keys, const Array<std::int64_t>& labels)
      : ResidualRows({keys, labels}) {
    d = columns_of(keys, "keys");
    rows.keys = stored_numbers(keys, "keys", d);
    rows.n = n = extent(keys, 0);
    require(labels.ndim() == 1 && extent(labels, 0) == n, "keys must be (n, d) and labels (n,)");
    rows.labels = labels.data();
  }

  void check(const AggregateRequest& request) const {
    require(request.head.columns == request.columns, "head must have a row per column");
    require(d == request.head.d, "keys must have as many columns as the head's weight");
  }
};

struct BoundLabelRows : ResidualRows {
  LabelRows rows;

  explicit BoundLabelRows(const Array<std::int64_t>& labels) : ResidualRows({labels}) {
    require(labels.ndim() == 1, "labels must be (n,)");
    rows.labels = labels.data();
    rows.n = n = extent(labels, 0);
  }

  // The labels may be any numbers: they are checked where they are read.
  void check(const AggregateRequest&) const {}
};

// The base model's last layer, by which head rows give residuals.
struct BoundLinearHead {
  Array<float> weight, bias;
  LinearHead head;

  BoundLinearHead(const Array<float>& rows, const Array<float>& offsets, double temperature)
      : weight(rows), bias(offsets) {
    require(weight.ndim() == 2 && bias.ndim() == 1 && extent(bias, 0) == extent(weight, 0) &&
                weight.size() > 0,
            "weight must be (C, d) and bias (C,), neither empty");
    head = {weight.data(), bias.data(), extent(weight, 0), extent(weight, 1), temperature};
  }
};

}  // namespace resmem
