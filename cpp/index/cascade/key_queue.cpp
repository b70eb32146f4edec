#include "key_queue.h"

#include <algorithm>

namespace resmem {

// One pass deals the candidates out to stretches of rows. Within a stretch they keep their order.
void KeyQueue::sort_by_row(std::size_t n) {
  constexpr std::size_t kStretches = 4096;
  const auto stretch = [&](const Wanted& w) { return w.candidate->row * kStretches / n; };
  std::vector<std::uint32_t> next(kStretches + 1);
  for (const Wanted& w : wanted_) ++next[stretch(w) + 1];
  for (std::size_t s = 0; s < kStretches; ++s) next[s + 1] += next[s];
  std::vector<Wanted> sorted(wanted_.size());
  for (const Wanted& w : wanted_) sorted[next[stretch(w)]++] = w;
  wanted_.swap(sorted);
}

void KeyQueue::find() {
  constexpr std::size_t kPollKeys = 256;
  const std::size_t d = scope_.request.d, count = wanted_.size();
  const Numbers& keys = scope_.segment.keys;
  const auto fetch = [&](std::size_t w) {
    if (w < count) prefetch_row(keys, wanted_[w].candidate->row, d);
  };
  for (std::size_t w = 0; w < kTogether; ++w) fetch(w);
  for (std::size_t first = 0; first < count; first += kTogether) {
    if (first % kPollKeys == 0) poll_();
    const std::size_t some = std::min(kTogether, count - first);
    const CanonicalKey* of[kTogether];
    const float* rows[kTogether];
    double found_keys[kTogether];
    for (std::size_t w = 0; w < some; ++w) {
      fetch(first + w + kTogether);
      of[w] = &coded_.canonical(wanted_[first + w].query);
      rows[w] = keys.read(wanted_[first + w].candidate->row * d, d, &scratch_[w * d],
                          scope_.execution.kernels);
    }
    canonical_keys(of, rows, some, found_keys);
    for (std::size_t w = 0; w < some; ++w) {
      const KeyDistance& distance = coded_[wanted_[first + w].query].keys;
      CascadeCandidate& candidate = *wanted_[first + w].candidate;
      candidate.low = distance.low(found_keys[w]);
      candidate.high = distance.high(found_keys[w]);
      candidate.key = found_keys[w];
    }
  }
  found += count;
  wanted_.clear();
}

}  // namespace resmem
