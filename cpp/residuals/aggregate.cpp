#include "aggregate.h"

#include <algorithm>
#include <limits>

#include "../rows/located.h"
#include "aggregate_head.h"

namespace resmem {
namespace {

// So many neighbours times columns are summed between two polls, which takes a few milliseconds.
constexpr std::size_t kPolledValues = std::size_t{1} << 22;

// A thread sums the residuals of queries one after the other, and needs these.
struct Worker {
  const AggregateRequest& request;
  const Execution& execution;
  bool calling_thread;

  void poll() const { execution.interrupt.poll(calling_thread); }
};

// ---- Dense ---------------------------------------------------------------------------------

// Classes whose sums are all different inherit this: none is the usual one (finish).
struct AllSums {
  static constexpr double usual() { return std::numeric_limits<double>::quiet_NaN(); }
};

// Sums rows of float32 where they lie.
class DenseSum : public AllSums {
 public:
  DenseSum(const Located<DenseRows>& rows, const Worker& worker)
      : rows_(rows), worker_(worker), row_(worker.request.k + kRowsAhead) {}

  static std::size_t cost(const AggregateRequest& request) {
    return request.k * request.columns / 8;
  }

  void operator()(std::size_t query, const double* weights, std::size_t count, double* sums) {
    const AggregateRequest& request = worker_.request;
    const std::size_t first = query * request.k, last = request.q * request.k;
    // The rows of the next query follow, so that they can be fetched ahead.
    for (std::size_t j = 0; j < row_.size(); ++j) {
      const std::int64_t position = first + j < last ? request.positions[first + j] : -1;
      row_[j] = position < 0 ? nullptr : at(position);
    }
    std::fill_n(sums, request.columns, 0.0);
    const std::size_t step = std::max<std::size_t>(4, kPolledValues / request.columns / 4 * 4);
    for (std::size_t j = 0; j < count; j += step) {
      if (j > 0) worker_.poll();
      worker_.execution.kernels.sums.weighted_sum(sums, row_.data() + j, weights + j,
                                                  std::min(step, count - j), request.columns);
    }
  }

 private:
  const float* at(std::int64_t position) const {
    const auto [segment, row] = rows_[position];
    return static_cast<const float*>(segment.residuals.at(row * worker_.request.columns));
  }

  const Located<DenseRows>& rows_;
  const Worker worker_;
  std::vector<const float*> row_;
};

// Sums rows that must be widened, or of which a few columns are asked for. It brings pieces of a
// few rows at a time into scratch.
class PieceSum : public AllSums {
 public:
  PieceSum(const Located<DenseRows>& rows, const Worker& worker)
      : rows_(rows),
        worker_(worker),
        columns_(std::min(worker.request.width(), kColumns)),
        piece_(kRows * columns_),
        halves_(columns_) {
    for (std::size_t r = 0; r < kRows + kRowsAhead; ++r)  // null: nothing can be fetched ahead
      row_[r] = r < kRows ? piece_.data() + r * columns_ : nullptr;
  }

  static std::size_t cost(const AggregateRequest& request) {
    return request.k * request.width() / 4;
  }

  void operator()(std::size_t query, const double* weights, std::size_t count, double* sums) {
    const AggregateRequest& request = worker_.request;
    const std::int64_t* positions = request.positions + query * request.k;
    std::fill_n(sums, request.width(), 0.0);
    for (std::size_t c = 0; c < request.width(); c += columns_) {
      const std::size_t n = std::min(columns_, request.width() - c);
      for (std::size_t j = 0; j < count; j += kRows) {
        if (j / kRows % 256 == 255) worker_.poll();
        const std::size_t some = std::min(kRows, count - j);
        for (std::size_t r = kRows; r < std::min(2 * kRows, count - j); ++r)
          fetch(query, positions[j + r], c, n);
        for (std::size_t r = 0; r < some; ++r) bring(query, positions[j + r], c, n, r);
        worker_.execution.kernels.sums.weighted_sum(sums + c, row_, weights + j, some, n);
      }
    }
  }

 private:
  static constexpr std::size_t kRows = 4, kColumns = 1024;  // 16 KB stay in the level-1 cache

  // Returns the columns asked for, from the first-th on, or null if all are.
  const std::int64_t* selected(std::size_t query, std::size_t first) const {
    const AggregateRequest& request = worker_.request;
    return request.select == nullptr ? nullptr : request.select + query * request.selected + first;
  }

  // Asks for a piece before it is needed, because neighbours lie at random places.
  void fetch(std::size_t query, std::int64_t position, std::size_t first, std::size_t n) const {
    constexpr std::size_t kStep = sizeof(float) * kLine;
    const auto [segment, row] = rows_[position];
    const Numbers& residuals = segment.residuals;
    const std::size_t start = row * worker_.request.columns;
    if (const std::int64_t* column = selected(query, first)) {
      for (std::size_t c = 0; c < n; ++c)
        __builtin_prefetch(residuals.at(start + static_cast<std::size_t>(column[c])));
      return;
    }
    const auto* from = static_cast<const char*>(residuals.at(start + first));
    for (std::size_t i = 0; i < residuals.bytes(n); i += kStep) __builtin_prefetch(from + i);
  }

  void bring(std::size_t query, std::int64_t position, std::size_t first, std::size_t n,
             std::size_t to) {
    const auto [segment, row] = rows_[position];
    const Numbers& residuals = segment.residuals;
    float* piece = piece_.data() + to * columns_;
    row_[to] = piece;
    const std::size_t start = row * worker_.request.columns;
    const std::int64_t* column = selected(query, first);
    if (column == nullptr) {
      row_[to] = residuals.read(start + first, n, piece, worker_.execution.kernels);
      return;
    }
    for (std::size_t c = 0; c < n; ++c) {
      const void* from = residuals.at(start + static_cast<std::size_t>(column[c]));
      if (residuals.type == NumberType::float32)
        piece[c] = *static_cast<const float*>(from);
      else
        halves_[c] = *static_cast<const std::uint16_t*>(from);
    }
    if (residuals.type != NumberType::float32)
      Numbers{halves_.data(), residuals.type}.read(0, n, piece, worker_.execution.kernels);
  }

  const Located<DenseRows>& rows_;
  const Worker worker_;
  std::size_t columns_;
  std::vector<float> piece_;
  std::vector<std::uint16_t> halves_;
  const float* row_[kRows + kRowsAhead];
};

// Sums rows of float64. Only regression has them, and mostly with few columns, so no kernel serves
// it.
class WideSum : public AllSums {
 public:
  WideSum(const Located<DenseRows>& rows, const Worker& worker) : rows_(rows), worker_(worker) {}

  static std::size_t cost(const AggregateRequest& request) { return request.k * request.width(); }

  void operator()(std::size_t query, const double* weights, std::size_t count, double* sums) {
    const AggregateRequest& request = worker_.request;
    const std::size_t width = request.width();
    const std::int64_t* positions = request.positions + query * request.k;
    const std::int64_t* column =
        request.select == nullptr ? nullptr : request.select + query * request.selected;
    std::fill_n(sums, width, 0.0);
    std::size_t summed = 0;
    for (std::size_t j = 0; j < count; ++j) {
      const auto [segment, row] = rows_[positions[j]];
      const double* values = segment.residuals.wide(row * request.columns);
      for (std::size_t c = 0; c < width; ++c)
        sums[c] += weights[j] * values[column == nullptr ? c : static_cast<std::size_t>(column[c])];
      if ((summed += width) < kPolledValues) continue;
      summed = 0;
      worker_.poll();
    }
  }

 private:
  const Located<DenseRows>& rows_;
  const Worker worker_;
};

// ---- Sparse --------------------------------------------------------------------------------

class SparseSum {
 public:
  SparseSum(const Located<SparseRows>& rows, const Worker& worker) : rows_(rows), worker_(worker) {
    for (const SparseRows& segment : rows.segments())
      scratch_.resize(std::max(scratch_.size(), segment.width));
    if (worker.request.select != nullptr) all_.resize(worker.request.columns);
  }

  static std::size_t cost(const AggregateRequest& request) {
    std::size_t width = 0;
    for (const SparseRows& segment : std::get<std::vector<SparseRows>>(request.store))
      width = std::max(width, segment.width);
    return request.columns + request.k * width;
  }

  void operator()(std::size_t query, const double* weights, std::size_t count, double* sums) {
    const AggregateRequest& request = worker_.request;
    const std::int64_t* positions = request.positions + query * request.k;
    double* all = request.select == nullptr ? sums : all_.data();
    double& rest = usual_;
    rest = 0;
    for (std::size_t j = 0; j < count; ++j) {
      const auto [segment, row] = rows_[positions[j]];
      rest += weights[j] * -static_cast<double>(segment.rest[row]);
    }
    std::fill_n(all, request.columns, rest);
    for (std::size_t j = 0; j < count; ++j) {
      if (j % 1024 == 1023) worker_.poll();
      add(positions[j], weights[j], all);
    }
    if (request.select == nullptr) return;
    const std::int64_t* column = request.select + query * request.selected;
    for (std::size_t c = 0; c < request.selected; ++c) sums[c] = all[column[c]];
  }
  // Returns the sum of every column of which no neighbour keeps a value.
  double usual() const { return usual_; }

 private:
  void add(std::int64_t position, double weight, double* all) {
    const auto [segment, row] = rows_[position];
    const std::size_t first = row * segment.width, columns = worker_.request.columns;
    const float* value =
        segment.value.read(first, segment.width, scratch_.data(), worker_.execution.kernels);
    for (std::size_t i = 0; i < segment.width; ++i) {
      const std::int32_t c = segment.index[first + i];
      if (static_cast<std::uint32_t>(c) >= columns) throw DamagedRows("index", c, columns);
      all[c] += weight * static_cast<double>(value[i]);
    }
  }

  const Located<SparseRows>& rows_;
  const Worker worker_;
  std::vector<float> scratch_;
  std::vector<double> all_;  // the sums of all columns, when only some are asked for
  double usual_ = 0;
};

// ---- Labels --------------------------------------------------------------------------------

// Sums one-hot rows, of which all but one value add nothing.
class LabelSum : public AllSums {
 public:
  LabelSum(const Located<LabelRows>& rows, const Worker& worker) : rows_(rows), worker_(worker) {
    if (worker.request.select != nullptr) all_.resize(worker.request.columns);
  }

  static std::size_t cost(const AggregateRequest& request) { return request.columns + request.k; }

  void operator()(std::size_t query, const double* weights, std::size_t count, double* sums) {
    const AggregateRequest& request = worker_.request;
    const std::int64_t* positions = request.positions + query * request.k;
    double* all = request.select == nullptr ? sums : all_.data();
    std::fill_n(all, request.columns, 0.0);
    for (std::size_t j = 0; j < count; ++j) {
      const auto [segment, row] = rows_[positions[j]];
      const std::int64_t label = segment.labels[row];
      if (static_cast<std::uint64_t>(label) >= request.columns)
        throw DamagedRows("label", label, request.columns);
      all[label] += weights[j];
    }
    if (request.select == nullptr) return;
    const std::int64_t* column = request.select + query * request.selected;
    for (std::size_t c = 0; c < request.selected; ++c) sums[c] = all[column[c]];
  }

 private:
  const Located<LabelRows>& rows_;
  const Worker worker_;
  std::vector<double> all_;  // the sums of all columns, when only some are asked for
};

// ---- Queries -------------------------------------------------------------------------------

// Divides the sums of a query by the total weight. Many sums may equal the `usual` one (NaN: there
// is none), which is divided only once: with tens of thousands of columns, divisions would take
// longer than all else.
void finish(const AggregateRequest& request, const double* sums, double usual, double total,
            double strength, double* to) {
  constexpr std::size_t kTogether = 8;
  const std::size_t width = request.width();
  const double quotient = usual / total;
  std::size_t c = 0;
  for (; c + kTogether <= width; c += kTogether) {
    bool all_usual = true;
    for (std::size_t j = c; j < c + kTogether; ++j) all_usual &= sums[j] == usual;
    for (std::size_t j = c; j < c + kTogether; ++j)
      to[j] = request.finished(to[j], all_usual ? quotient : sums[j] / total, strength);
  }
  for (; c < width; ++c) to[c] = request.finished(to[c], sums[c] / total, strength);
}

// Weighs the neighbours of every query, lets Sum sum what their rows hold, and puts the sums in
// place.
template <class Sum, class Segment>
void sum_by_queries(const std::vector<Segment>& segments, const AggregateRequest& request,
                    const Execution& execution, double* out) {
  const Located<Segment> rows(segments);
  const NeighbourWeights weigh(request.sigma, request.weights, execution.kernels);
  const std::size_t k = request.k, width = request.width();
  parallel_for_rows(
      request.q, Sum::cost(request), execution.threads, execution.interrupt,
      [&](std::size_t first, std::size_t last, bool calling_thread) {
        Sum sum(rows, {request, execution, calling_thread});
        std::vector<double> weights(k), apart(request.add_to_out ? width : 0);
        for (std::size_t q = first; q < last; ++q) {
          const Weighed near =
              weigh(request.distances + q * k, request.positions + q * k, k, weights.data());
          double* to = out + q * width;
          double* sums = request.add_to_out ? apart.data() : to;
          sum(q, weights.data(), near.count, sums);
          finish(request, sums, sum.usual(), near.total, request.strength_for(q, near.count), to);
        }
      });
}

void aggregate_rows(const std::vector<DenseRows>& dense, const AggregateRequest& request,
                    const Execution& execution, double* out) {
  const auto all_of = [&](NumberType type) {
    return std::all_of(dense.begin(), dense.end(),
                       [=](const DenseRows& rows) { return rows.residuals.type == type; });
  };
  if (!dense.empty() && all_of(NumberType::float64))
    sum_by_queries<WideSum>(dense, request, execution, out);
  else if (request.select == nullptr && all_of(NumberType::float32))
    sum_by_queries<DenseSum>(dense, request, execution, out);
  else
    sum_by_queries<PieceSum>(dense, request, execution, out);
}

void aggregate_rows(const std::vector<SparseRows>& sparse, const AggregateRequest& request,
                    const Execution& execution, double* out) {
  sum_by_queries<SparseSum>(sparse, request, execution, out);
}

void aggregate_rows(const std::vector<HeadRows>& head, const AggregateRequest& request,
                    const Execution& execution, double* out) {
  aggregate_head(head, request, execution, out);
}

void aggregate_rows(const std::vector<LabelRows>& labels, const AggregateRequest& request,
                    const Execution& execution, double* out) {
  sum_by_queries<LabelSum>(labels, request, execution, out);
}

}  // namespace

Weighed NeighbourWeights::operator()(const double* distances, const std::int64_t* positions,
                                     std::size_t k, double* out) const {
  Weighed near;
  while (near.count < k && positions[near.count] >= 0) ++near.count;
  if (near.count == 0) return near;
  near.total = kernels_.sums.neighbour_weights(distances, near.count, sigma_, out);
  if (rows_.segments().empty()) return near;
  near.total = 0;
  for (std::size_t j = 0; j < near.count; ++j) {
    const auto [segment, row] = rows_[positions[j]];
    if (segment.weights != nullptr) out[j] *= segment.weights[row];
    near.total += out[j];
  }
  return near;
}

void aggregate(const AggregateRequest& request, const Execution& execution, double* out) {
  std::visit([&](const auto& rows) { aggregate_rows(rows, request, execution, out); },
             request.store);
}

}  // namespace resmem
