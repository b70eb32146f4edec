#include "selection.h"

#include <algorithm>
#include <limits>

#include "canonical.h"
#include "kth_largest.h"

namespace resmem {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

Selection::Selection(const SearchRequest& request, const RowSet& rows, const KernelTable& kernels,
                     const FilterBounds& bounds, std::size_t capacity)
    : request_(request),
      rows_(rows),
      kernels_(kernels),
      bounds_(bounds),
      capacity_(capacity),
      lows_(capacity) {}

void Selection::begin(const std::size_t* queries, const std::vector<StagedQuery>& staged,
                      std::size_t lanes) {
  const std::size_t count = staged.size(), panels = (count + lanes - 1) / lanes;
  queries_ = queries;
  staged_ = staged;
  thresholds_.assign(panels * lanes, kInfinity);
  std::fill_n(thresholds_.begin(), count, -kInfinity);
  deferred_.assign(count, 0);
  count_.assign(count, 0);
  pool_.resize(count * capacity_);
}

void Selection::tighten() {
  for (std::size_t query = 0; query < count_.size(); ++query)
    if (count_[query] > request_.k) thin(query);
}

// Drops what cannot be among the k nearest. There must be more than k candidates.
void Selection::thin(std::size_t query) {
  Candidate* const begin = pool_.data() + query * capacity_;
  Candidate* const end = begin + count_[query];
  float* low = lows_.data();
  for (const Candidate* c = begin; c != end; ++c) *low++ = c->low;
  const float kth = kth_largest(lows_.data(), count_[query], request_.k);
  const float threshold = std::max(thresholds_[query], bounds_.threshold(kth, staged_[query]));
  thresholds_[query] = threshold;
  Candidate* kept = begin;
  for (const Candidate* c = begin; c != end; ++c) {  // branch-free
    *kept = *c;
    kept += c->high >= threshold ? 1 : 0;
  }
  count_[query] = static_cast<std::size_t>(kept - begin);
  ++stats.thinnings;
  // Half of the room above k must come free. If less did, the next thinning would come too soon.
  if (count_[query] <= (request_.k + capacity_) / 2) return;
  if (const KeyScores* scores = bounds_.key_scores())
    thin_exactly(query, *scores);
  else
    defer(query);
}

void Selection::defer(std::size_t query) {
  deferred_[query] = 1;
  ++stats.deferred;
  count_[query] = 0;
  thresholds_[query] = kInfinity;
}

// Lets canonical keys decide where bounds cannot separate the candidates: ties, duplicates, and
// distances that differ by less than the bounds do.
void Selection::thin_exactly(std::size_t query, const KeyScores& scores) {
  Candidate* const begin = pool_.data() + query * capacity_;
  const CanonicalKey key(request_, kernels_, queries_[query]);
  RowReader reader(rows_, kernels_);
  std::vector<Neighbour> exact;
  exact.reserve(count_[query]);
  for (const Candidate* c = begin; c != begin + count_[query]; ++c)
    exact.push_back({key.at(reader, c->position), rows_.id(c->position), c->position});
  stats.rescored += exact.size();
  ++stats.exact_thinnings;
  const auto kth = exact.begin() + static_cast<std::ptrdiff_t>(request_.k - 1);
  std::nth_element(exact.begin(), kth, exact.end());
  const StagedQuery& staged = staged_[query];
  const double worst = kth->key;
  const bool settled = scores.settled_by_zero() && worst == 0 && rows_.ascending();
  thresholds_[query] =
      settled ? kInfinity : std::max(thresholds_[query], scores.threshold_of_key(worst, staged));
  count_[query] = request_.k;
  for (std::size_t j = 0; j < request_.k; ++j)
    begin[j] = {scores.upper_end(exact[j].key, staged), scores.lower_end(exact[j].key, staged),
                exact[j].position};
}

}  // namespace resmem
