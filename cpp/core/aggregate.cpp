#include "aggregate.h"

#include <algorithm>

namespace resmem {
namespace {

// A task is about this many output values: long enough to be worth handing out, short enough
// to answer an interrupt.
constexpr std::size_t kTaskValues = std::size_t{1} << 16;

void for_row_blocks(std::size_t n, std::size_t row_cost, std::size_t threads, Interrupt& interrupt,
                    const std::function<void(std::size_t first, std::size_t last)>& body) {
  const std::size_t block =
      std::max<std::size_t>(1, kTaskValues / std::max<std::size_t>(1, row_cost));
  parallel_for((n + block - 1) / block, threads, interrupt, [&](std::size_t task, bool) {
    body(task * block, std::min(n, (task + 1) * block));
  });
}

class ResidualRows {
 public:
  ResidualRows(const std::vector<ResidualSegment>& segments, std::size_t columns)
      : segments_(segments), columns_(columns) {
    std::size_t start = 0;
    for (const ResidualSegment& segment : segments) {
      starts_.push_back(start);
      start += segment.n;
    }
  }
  const float* operator[](std::size_t position) const {
    if (segments_.size() == 1) return segments_[0].residuals + position * columns_;
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), position);
    const auto s = static_cast<std::size_t>(after - starts_.begin()) - 1;
    return segments_[s].residuals + (position - starts_[s]) * columns_;
  }

 private:
  const std::vector<ResidualSegment>& segments_;
  std::size_t columns_;
  std::vector<std::size_t> starts_;
};

}  // namespace

void softmax_rows(const float* logits, std::size_t n, std::size_t columns, double temperature,
                  const KernelTable& kernels, std::size_t threads, double* out,
                  Interrupt& interrupt) {
  for_row_blocks(n, columns, threads, interrupt, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i)
      kernels.softmax(logits + i * columns, temperature, out + i * columns, columns);
  });
}

void class_residuals(const ClassRows& rows, const KernelTable& kernels, std::size_t threads,
                     float* out, Interrupt& interrupt) {
  const std::size_t columns = rows.columns;
  for_row_blocks(rows.n, columns, threads, interrupt, [&](std::size_t first, std::size_t last) {
    std::vector<double> base(columns);
    for (std::size_t i = first; i < last; ++i) {
      const float* outputs = rows.outputs + i * columns;
      if (rows.temperature > 0)
        kernels.softmax(outputs, rows.temperature, base.data(), columns);
      else
        std::copy_n(outputs, columns, base.begin());
      const auto label = static_cast<std::size_t>(rows.labels[i]);
      for (std::size_t c = 0; c < columns; ++c)
        out[i * columns + c] = static_cast<float>((c == label ? 1.0 : 0.0) - base[c]);
    }
  });
}

void simplex_rows(double* values, std::size_t n, std::size_t columns, double floor,
                  const KernelTable& kernels, std::size_t threads, Interrupt& interrupt) {
  for_row_blocks(n, columns, threads, interrupt, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      double* row = values + i * columns;
      for (std::size_t c = 0; c < columns; ++c) row[c] = row[c] > floor ? row[c] : floor;
      const double total = kernels.csum(row, columns);
      for (std::size_t c = 0; c < columns; ++c) row[c] /= total;
    }
  });
}

std::size_t neighbour_weights(const double* distances, const std::int64_t* positions, std::size_t k,
                              double sigma, const KernelTable& kernels, double* out) {
  std::size_t count = 0;
  while (count < k && positions[count] >= 0) ++count;
  if (count > 0) kernels.neighbour_weights(distances, count, sigma, out);
  return count;
}

void aggregate(const AggregateRequest& request, const KernelTable& kernels, double* out,
               Interrupt& interrupt) {
  const ResidualRows residuals(request.segments, request.columns);
  const std::size_t columns = request.columns, k = request.k;
  for_row_blocks(
      request.q, k * columns / 8, request.threads, interrupt,
      [&](std::size_t first, std::size_t last) {
        std::vector<double> weights(k), sums(columns);
        // The neighbours of all these queries in a row, so that the kernel can look ahead.
        std::vector<const float*> rows((last - first) * k + kRowsAhead);
        for (std::size_t j = 0; j < (last - first) * k; ++j) {
          const std::int64_t position = request.positions[first * k + j];
          rows[j] = position < 0 ? nullptr : residuals[static_cast<std::size_t>(position)];
        }
        for (std::size_t q = first; q < last; ++q) {
          const std::size_t count =
              neighbour_weights(request.distances + q * k, request.positions + q * k, k,
                                request.sigma, kernels, weights.data());
          double* sum = request.add_to_out ? sums.data() : out + q * columns;
          kernels.weighted_sum(sum, rows.data() + (q - first) * k, weights.data(), count, columns);
          if (request.add_to_out)
            for (std::size_t c = 0; c < columns; ++c)
              out[q * columns + c] += request.strength * sum[c];
        }
      });
}

}  // namespace resmem
