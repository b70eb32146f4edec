#include "seeds.h"

#include <algorithm>

namespace resmem {
namespace {

constexpr std::size_t kScoredRows = 4;  // times k rows are scored to choose k of them

}  // namespace

Seeds::Seeds(const Cascade& cascade, const IndexScope& scope, const CodedQueries& coded,
             const ThreadPoll& poll, CascadeCandidates& candidates, CodedRowFilter& rows)
    : cascade_(cascade),
      kernels_(scope.execution.kernels),
      coded_(coded),
      poll_(poll),
      candidates_(candidates),
      rows_(rows),
      k_(scope.request.k),
      restricted_(scope.visibility.restricts()),
      scores_(kChunkRows) {}

void Seeds::find(const QueryBlock& block, const Schedule& schedule, std::uint32_t i) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::size_t clusters = schedule.near_count();
  std::vector<std::uint32_t> taken;
  scored_.clear();
  for (std::size_t c = 0; c < clusters && candidates_.reach(i) == kInfinity; ++c) {
    poll_();
    score(block, i, schedule.near(i, c));
    if (scored_.size() >= kScoredRows * k_ || c + 1 == clusters) take_nearest(i, taken);
  }
  std::sort(taken.begin(), taken.end());
  rows_.mark_taken(i, std::move(taken));
}

void Seeds::score(const QueryBlock& block, std::size_t i, std::uint32_t cluster) {
  const std::uint8_t* codes = coded_.codes(block.number(i));
  // With this threshold the best score is the largest that 16 bits hold, but for the rounding of
  // halves. So codes up to 362 units apart keep their order.
  const auto threshold = static_cast<std::int32_t>(block.square[i] / 2) - 32766;
  for (std::size_t c = cascade_.starts[cluster]; c < cascade_.starts[cluster + 1]; ++c) {
    const Chunk& chunk = cascade_.chunks[c];
    kernels_.codes.score(
        {&cascade_.panels[chunk.first * cascade_.depth], &cascade_.init[chunk.first], chunk.count,
         cascade_.depth, &codes, &threshold, 1, nullptr},
        scores_.data());
    pairs_coded += chunk.count;
    for (std::uint32_t r = 0; r < chunk.count; ++r)
      if (!restricted_ || rows_.sees({chunk.first + r, static_cast<std::uint32_t>(i)}))
        scored_.push_back({scores_[r], chunk.first + r});
  }
}

void Seeds::take_nearest(std::uint32_t i, std::vector<std::uint32_t>& taken) {
  const auto end = scored_.begin() + static_cast<std::ptrdiff_t>(std::min(k_, scored_.size()));
  std::nth_element(scored_.begin(), end, scored_.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.place < b.place;
  });
  pairs_.clear();
  for (auto s = scored_.begin(); s != end; ++s) {
    pairs_.push_back({s->place, i});
    taken.push_back(s->place);
  }
  rows_.take(pairs_);
  scored_.clear();
}

}  // namespace resmem
