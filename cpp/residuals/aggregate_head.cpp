#include "aggregate_head.h"

#include <algorithm>

#include "../rows/located.h"
#include "head.h"

namespace resmem {
namespace {

// Takes some queries at a time, and of those some neighbours. It computes their logits, then their
// residuals in the same place, and then the sums. All threads share each of the three steps, so
// that one query is split like many.
class HeadSum {
 public:
  HeadSum(const std::vector<HeadRows>& segments, const AggregateRequest& request,
          const Execution& execution)
      : rows_(segments), request_(request), execution_(execution) {}

  void run(double* out) {
    const std::size_t columns = request_.columns;
    const std::size_t held = std::max<std::size_t>(1, kHeld / columns);  // neighbours
    const std::size_t group = std::max<std::size_t>(1, held / std::max<std::size_t>(1, request_.k));
    const bool in_place = request_.select == nullptr && !request_.add_to_out;
    std::vector<double> apart(in_place ? 0 : std::min(group, request_.q) * columns);
    for (std::size_t first = 0; first < request_.q; first += group) {
      const std::size_t last = std::min(request_.q, first + group);
      double* sums = in_place ? out + first * columns : apart.data();
      std::fill_n(sums, (last - first) * columns, 0.0);
      gather(first, last);
      for (std::size_t j = 0; j < positions_.size(); j += held) {
        const std::size_t count = std::min(held, positions_.size() - j);
        residuals_.resize(std::max(residuals_.size(), count * columns));
        compute_residuals(j, count);
        add(j, count, sums);
      }
      deliver(first, last, sums, out);
    }
  }

 private:
  static constexpr std::size_t kHeld = std::size_t{2} << 20;  // residuals held at a time, 8 MiB
  static constexpr std::size_t kColumns = 8192;               // columns that one task adds

  // Gathers the neighbours of queries [first, last). Those of the i-th begin at starts_[i].
  void gather(std::size_t first, std::size_t last) {
    positions_.clear();
    weights_.clear();
    totals_.clear();
    starts_.assign(1, 0);
    std::vector<double> weights(request_.k);
    const NeighbourWeights weigh(request_.sigma, request_.weights, execution_.kernels);
    for (std::size_t q = first; q < last; ++q) {
      const std::int64_t* positions = request_.positions + q * request_.k;
      const Weighed near =
          weigh(request_.distances + q * request_.k, positions, request_.k, weights.data());
      positions_.insert(positions_.end(), positions, positions + near.count);
      weights_.insert(weights_.end(), weights.begin(),
                      weights.begin() + static_cast<std::ptrdiff_t>(near.count));
      totals_.push_back(near.total);
      starts_.push_back(positions_.size());
    }
  }

  void compute_residuals(std::size_t first, std::size_t count) {
    const std::size_t columns = request_.columns, d = request_.head.d;
    const auto key = [&](std::size_t i, float* scratch) {
      const auto [segment, row] = rows_[positions_[first + i]];
      return segment.keys.read(row * d, d, scratch, execution_.kernels);
    };
    head_logits(request_.head, count, key, execution_, residuals_.data());
    parallel_for_rows(count, columns, execution_.threads, execution_.interrupt,
                      [&](std::size_t begin, std::size_t end, bool) {
                        std::vector<double> base(columns);
                        for (std::size_t i = begin; i < end; ++i) {
                          const auto [segment, row] = rows_[positions_[first + i]];
                          const std::int64_t label = segment.labels[row];
                          if (label < 0 || static_cast<std::uint64_t>(label) >= columns)
                            throw DamagedRows("label", label, columns);
                          float* residual = residuals_.data() + i * columns;
                          execution_.kernels.exact.softmax(residual, request_.head.temperature,
                                                           base.data(), columns);
                          for (std::size_t c = 0; c < columns; ++c)
                            residual[c] = static_cast<float>(
                                (c == static_cast<std::size_t>(label) ? 1.0 : 0.0) - base[c]);
                        }
                      });
  }

  // Adds neighbours [first, first + count) to the sums of their queries.
  void add(std::size_t first, std::size_t count, double* sums) {
    const std::size_t columns = request_.columns, width = std::min(columns, kColumns);
    const std::size_t blocks = (columns + width - 1) / width, queries = starts_.size() - 1;
    parallel_for_rows(queries * blocks, std::min(request_.k, count) * width / 8, execution_.threads,
                      execution_.interrupt, [&](std::size_t begin, std::size_t end, bool) {
                        std::vector<const float*> rows;
                        for (std::size_t task = begin; task < end; ++task) {
                          const std::size_t query = task / blocks, c = task % blocks * width;
                          const std::size_t from = std::max(first, starts_[query]);
                          const std::size_t to = std::min(first + count, starts_[query + 1]);
                          if (from >= to) continue;
                          rows.assign(to - from + kRowsAhead, nullptr);
                          for (std::size_t j = from; j < to; ++j)
                            rows[j - from] = residuals_.data() + (j - first) * columns + c;
                          execution_.kernels.sums.weighted_sum(
                              sums + query * columns + c, rows.data(), &weights_[from], to - from,
                              std::min(width, columns - c));
                        }
                      });
  }

  // Divides the columns asked for, and adds them to the base outputs if those are there. The sums
  // may already lie in `out`.
  void deliver(std::size_t first, std::size_t last, const double* sums, double* out) const {
    const std::size_t width = request_.width();
    for (std::size_t q = first; q < last; ++q, sums += request_.columns) {
      const std::size_t neighbours = starts_[q - first + 1] - starts_[q - first];
      const double strength = request_.strength_for(q, neighbours);
      for (std::size_t c = 0; c < width; ++c) {
        const std::int64_t* column = request_.select;
        const double sum =
            sums[column == nullptr ? c : static_cast<std::size_t>(column[q * width + c])];
        double& to = out[q * width + c];
        to = request_.finished(to, sum / totals_[q - first], strength);
      }
    }
  }

  const Located<HeadRows> rows_;
  const AggregateRequest& request_;
  const Execution& execution_;
  std::vector<std::int64_t> positions_;
  std::vector<double> weights_, totals_;  // per neighbour; their sum, per query
  std::vector<std::size_t> starts_;
  std::vector<float> residuals_;
};

}  // namespace

void aggregate_head(const std::vector<HeadRows>& segments, const AggregateRequest& request,
                    const Execution& execution, double* out) {
  HeadSum(segments, request, execution).run(out);
}

}  // namespace resmem
