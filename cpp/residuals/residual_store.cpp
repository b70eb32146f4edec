#include "residual_store.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace resmem {
namespace {

std::size_t checked_label(const ClassRows& rows, std::size_t row) {
  const std::int64_t label = rows.labels[row];
  if (label < 0 || static_cast<std::uint64_t>(label) >= rows.columns)
    throw std::invalid_argument("labels must be classes 0 to " + std::to_string(rows.columns - 1) +
                                ", row " + std::to_string(row) + " has " + std::to_string(label));
  return static_cast<std::size_t>(label);
}

void base_output(const ClassRows& rows, std::size_t row, const KernelTable& kernels, double* out) {
  const float* outputs = rows.outputs + row * rows.columns;
  if (rows.temperature > 0)
    kernels.exact.softmax(outputs, rows.temperature, out, rows.columns);
  else
    std::copy_n(outputs, rows.columns, out);
}

// Stores n numbers at `at` and turns `values` into what was stored.
void store(const StoredNumbers& out, std::size_t at, float* values, std::size_t n,
           const KernelTable& kernels) {
  if (out.halves == nullptr) {
    std::copy_n(values, n, out.floats + at);
    return;
  }
  kernels.numbers.narrow_float16(values, out.halves + at, n);
  kernels.numbers.widen_float16(out.halves + at, values, n);
}

// Finds the `count` largest values, the largest first. Of equal ones the smaller index comes first.
class Largest {
 public:
  struct Item {
    double value;
    std::int32_t index;
    bool operator<(const Item& other) const {  // whether this one comes first
      return value > other.value || (value == other.value && index < other.index);
    }
  };

  explicit Largest(std::size_t count) : count_(count) {}

  // Looks at values[i] for every i but `skipped`. It never takes a NaN.
  const std::vector<Item>& find(const double* values, std::size_t n, std::size_t skipped) {
    items_.clear();
    if (count_ == 0) return items_;
    // One pass compares values with the last of those kept. Indices ascend, so an equal value comes
    // too late.
    least_ = -std::numeric_limits<double>::infinity();
    std::size_t i = 0;
    for (; i + kBlock <= n; i += kBlock) {
      bool any = false;  // seldom true after the first few blocks
      for (std::size_t j = 0; j < kBlock; ++j) any |= values[i + j] > least_;
      for (std::size_t j = i; any && j < i + kBlock; ++j) look(values[j], j, skipped);
    }
    for (; i < n; ++i) look(values[i], i, skipped);
    if (items_.size() > count_) cut();
    std::sort(items_.begin(), items_.end());
    return items_;
  }

 private:
  static constexpr std::size_t kRoom = 32;  // it makes cuts rare for small counts too
  static constexpr std::size_t kBlock = 8;

  void look(double value, std::size_t i, std::size_t skipped) {
    if (!(value > least_) || i == skipped) return;
    items_.push_back({value, static_cast<std::int32_t>(i)});
    if (items_.size() < 2 * count_ + kRoom) return;
    cut();
    least_ = items_.back().value;
  }

  // Keeps the `count` that come first, with the last of them at the end.
  void cut() {
    const auto last = items_.begin() + static_cast<std::ptrdiff_t>(count_ - 1);
    std::nth_element(items_.begin(), last, items_.end());
    items_.resize(count_);
  }

  std::size_t count_;
  std::vector<Item> items_;
  double least_ = 0;  // a value must exceed it
};

// Returns the largest |values[i] - u|. Eight maxima run side by side, since each step of one waits
// for the step before it.
double largest_distance(const double* values, std::size_t n, double u) {
  constexpr std::size_t kChains = 8;
  double worst[kChains] = {};
  std::size_t i = 0;
  for (; i + kChains <= n; i += kChains)
    for (std::size_t j = 0; j < kChains; ++j) {
      const double distance = std::fabs(values[i + j] - u);
      worst[j] = distance > worst[j] ? distance : worst[j];
    }
  for (; i < n; ++i) worst[0] = std::max(worst[0], std::fabs(values[i] - u));
  return *std::max_element(worst, worst + kChains);
}

// Writes the rows of one task, one after the other.
class SparseWriter {
 public:
  SparseWriter(const ClassRows& rows, std::size_t others, const KernelTable& kernels,
               const SparseResiduals& out)
      : rows_(rows),
        others_(others),
        kernels_(kernels),
        out_(out),
        largest_(others),
        base_(rows.columns),
        kept_(others + 1),
        value_(others + 1) {}

  // Returns the row's error.
  double write(std::size_t row) {
    const std::size_t columns = rows_.columns, width = others_ + 1,
                      label = checked_label(rows_, row);
    base_output(rows_, row, kernels_, base_.data());
    std::int32_t* index = out_.index + row * width;
    const auto& found = largest_.find(base_.data(), columns, label);
    index[0] = static_cast<std::int32_t>(label);
    for (std::size_t j = 0; j < found.size(); ++j) index[j + 1] = found[j].index;
    for (std::size_t j = 0; j <= found.size(); ++j) {
      double& base = base_[static_cast<std::size_t>(index[j])];
      kept_[j] = base;
      base = 0;
    }
    const double left = kernels_.exact.csum(base_.data(), columns);
    // A NaN is never among the largest. So if there are too few of these, `left` is NaN.
    if (!std::isfinite(std::accumulate(kept_.begin(), kept_.end(), left)))
      throw std::invalid_argument("outputs must be finite, row " + std::to_string(row) +
                                  " gives a base output that is not");
    const auto rest =
        static_cast<float>(columns == width ? 0.0 : left / static_cast<double>(columns - width));
    const auto u = static_cast<double>(rest);
    out_.rest[row] = rest;
    value_[0] = static_cast<float>((1 - kept_[0]) + u);
    for (std::size_t j = 1; j < width; ++j) value_[j] = static_cast<float>(u - kept_[j]);
    store(out_.value, row * width, value_.data(), width, kernels_);
    return error(index, u);
  }

 private:
  double error(const std::int32_t* index, double u) {
    double worst = 0;
    for (std::size_t j = 0; j <= others_; ++j) {
      const double residual = (j == 0 ? 1.0 : 0.0) - kept_[j];
      worst = std::max(worst, std::fabs((static_cast<double>(value_[j]) - u) - residual));
      base_[static_cast<std::size_t>(index[j])] = u;  // so that only the others count below
    }
    return std::max(worst, largest_distance(base_.data(), rows_.columns, u));
  }

  const ClassRows& rows_;
  std::size_t others_;
  const KernelTable& kernels_;
  const SparseResiduals& out_;
  Largest largest_;
  std::vector<double> base_;  // of the row; 0 for classes in `index`
  std::vector<double> kept_;  // base outputs of the classes in `index`
  std::vector<float> value_;
};

}  // namespace

void softmax_rows(const float* logits, std::size_t n, std::size_t columns, double temperature,
                  const Execution& execution, double* out) {
  parallel_for_rows(n, columns, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      for (std::size_t i = first; i < last; ++i)
                        execution.kernels.exact.softmax(logits + i * columns, temperature,
                                                        out + i * columns, columns);
                    });
}

void class_residuals(const ClassRows& rows, const Execution& execution, const StoredNumbers& out) {
  const std::size_t columns = rows.columns;
  parallel_for_rows(rows.n, columns, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      std::vector<double> base(columns);
                      std::vector<float> residual(columns);
                      for (std::size_t i = first; i < last; ++i) {
                        const std::size_t label = checked_label(rows, i);
                        base_output(rows, i, execution.kernels, base.data());
                        for (std::size_t c = 0; c < columns; ++c)
                          residual[c] = static_cast<float>((c == label ? 1.0 : 0.0) - base[c]);
                        store(out, i * columns, residual.data(), columns, execution.kernels);
                      }
                    });
}

double sparse_residuals(const ClassRows& rows, std::size_t others, const Execution& execution,
                        const SparseResiduals& out) {
  std::atomic<double> worst{0};
  parallel_for_rows(rows.n, rows.columns, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      SparseWriter writer(rows, others, execution.kernels, out);
                      for (std::size_t i = first; i < last; ++i) {
                        const double error = writer.write(i);
                        double known = worst.load();
                        while (error > known && !worst.compare_exchange_weak(known, error)) {
                        }
                      }
                    });
  return worst;
}

}  // namespace resmem
