#include "staging.h"

#include <cmath>

namespace resmem {
namespace {

constexpr int kMostFloatScale = 126, kMostDoubleScale = 480;

// Returns the power of two, within 2^-most and 2^most, that brings `largest` into (1/2, 1].
double unit_scale(double largest, int most) {
  if (!(largest > 0)) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::clamp(-exponent, -most, most));
}

}  // namespace

Staging::Staging(const SearchRequest& request, const KernelTable& kernels)
    : kernels_(kernels), d_(request.d), wide_(request.wide()), offset_(request.d) {
  if (wide_)
    zeros_.resize(d_);
  else
    offset32_.resize(d_);
}

void Staging::scale_by(double largest) {
  scale_ = unit_scale(largest, wide_ ? kMostDoubleScale : kMostFloatScale);
}

void Staging::centre(const SearchRequest& request) {
  constexpr std::size_t kSample = 256;  // rows, evenly spaced
  std::size_t total = 0;
  for (const Segment& segment : request.segments) total += segment.n;
  std::vector<double> sum(d_);
  std::vector<float> scratch(d_);
  const std::size_t step = std::max<std::size_t>(1, total / kSample);
  std::size_t start = 0, taken = 0;
  const auto add = [&](const auto* row) {
    for (std::size_t i = 0; i < d_; ++i) sum[i] += static_cast<double>(row[i]);
  };
  for (const Segment& segment : request.segments) {
    for (std::size_t r = (start + step - 1) / step * step; r < start + segment.n;
         r += step, ++taken) {
      const std::size_t first = (r - start) * d_;
      if (wide_)
        add(segment.keys.wide(first));
      else
        add(segment.keys.read(first, d_, scratch.data(), kernels_));
    }
    start += segment.n;
  }
  for (std::size_t i = 0; i < d_ && taken > 0; ++i) {
    const double mean = sum[i] / static_cast<double>(taken) * scale_;
    if (!(std::fabs(mean) <= 4)) continue;  // only a damaged row has such a mean
    offset_[i] = wide_ ? mean : static_cast<double>(static_cast<float>(mean));
  }
  if (!wide_) offset32_.assign(offset_.begin(), offset_.end());
}

StagedQuery Staging::euclidean_query(const SearchRequest& request, std::size_t query,
                                     float* staged) const {
  return this->query(request, query, [&](const auto* q) {
    place(q, staged);
    StagedQuery result;
    result.key_scale = scale_ * scale_;
    result.square = dot(staged, staged);
    return result;
  });
}

double largest_of_rows(const SearchRequest& request) {
  double largest = 0;
  for (const Segment& segment : request.segments) largest = std::max(largest, segment.max_abs);
  return largest;
}

}  // namespace resmem
