#include "schedule.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace resmem {
namespace {

constexpr std::size_t kNear = 8;  // clusters that a query visits before the block does

}  // namespace

void Schedule::begin(const QueryBlock& block, std::size_t part, std::size_t parts) {
  count_ = block.count();
  find_clusters(block, part, parts);
  has_outliers_ = cascade_.clusters % parts == part;
  away_.resize(cascade_.clusters * count_);
  for (std::size_t i = 0; i < count_; ++i)
    for (std::size_t c = 0; c < cascade_.clusters; ++c)
      away_[c * count_ + i] = coded_.away(block.number(i))[c];
  near_count_ = std::min(kNear, clusters_.size());
  near_.resize(count_ * near_count_);
  for (std::size_t i = 0; i < count_; ++i) find_near(i);
}

// Orders the clusters from near to far and takes every `parts`-th, so that each part has near ones.
void Schedule::find_clusters(const QueryBlock& block, std::size_t part, std::size_t parts) {
  std::vector<double> sum(cascade_.clusters);
  for (std::size_t i = 0; i < count_; ++i)
    for (std::size_t c = 0; c < cascade_.clusters; ++c) sum[c] += coded_.away(block.number(i))[c];
  order_.resize(cascade_.clusters);
  std::iota(order_.begin(), order_.end(), 0U);
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return sum[a] != sum[b] ? sum[a] < sum[b] : a < b;
  });
  clusters_.clear();
  for (std::size_t c = part; c < cascade_.clusters; c += parts) clusters_.push_back(order_[c]);
}

void Schedule::find_near(std::size_t i) {
  const auto from = [&](std::uint32_t cluster) { return away_[cluster * count_ + i]; };
  order_ = clusters_;
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(near_count_);
  std::partial_sort(order_.begin(), end, order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return from(a) != from(b) ? from(a) < from(b) : a < b;
  });
  std::copy(order_.begin(), end, near_.begin() + static_cast<std::ptrdiff_t>(i * near_count_));
}

std::vector<std::uint32_t> Schedule::near_clusters() const {
  std::vector<std::uint32_t> takers(cascade_.clusters), ranks(cascade_.clusters), order;
  for (std::size_t at = 0; at < near_.size(); ++at) {
    if (takers[near_[at]]++ == 0) order.push_back(near_[at]);
    ranks[near_[at]] += static_cast<std::uint32_t>(at % near_count_);
  }
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const std::uint64_t left = std::uint64_t{ranks[a]} * takers[b];
    const std::uint64_t right = std::uint64_t{ranks[b]} * takers[a];
    return left != right ? left < right : a < b;
  });
  return order;
}

void Schedule::near_queries(std::uint32_t cluster, std::vector<std::uint32_t>& queries) const {
  queries.clear();
  for (std::size_t at = 0; at < near_.size(); ++at)
    if (near_[at] == cluster) queries.push_back(static_cast<std::uint32_t>(at / near_count_));
}

void Schedule::visited(std::uint32_t cluster, const std::vector<std::uint32_t>& queries) {
  for (const std::uint32_t i : queries)
    away_[cluster * count_ + i] = std::numeric_limits<double>::infinity();
}

}  // namespace resmem
