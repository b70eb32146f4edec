#include "candidates.h"

#include <algorithm>

namespace resmem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kMostGoingOn = 4;  // queries of a block that never give up

// Takes one more value into a heap of the k smallest.
void keep_smallest(std::vector<double>& heap, std::size_t k, double value) {
  if (heap.size() == k) {
    if (value >= heap.front()) return;
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
  }
  heap.push_back(value);
  std::push_heap(heap.begin(), heap.end());
}

// Drops the candidates from `first` on that lie beyond the reach.
void drop_far(std::vector<CascadeCandidate>& pool, std::vector<CascadeCandidate>::iterator first,
              double reach) {
  pool.erase(
      std::remove_if(first, pool.end(), [&](const CascadeCandidate& c) { return c.low > reach; }),
      pool.end());
}

}  // namespace

CascadeCandidates::CascadeCandidates(const Cascade& cascade, const IndexScope& scope,
                                     const CodedQueries& coded, KeyQueue& keys)
    : cascade_(cascade),
      scope_(scope),
      coded_(coded),
      keys_(keys),
      k_(scope.request.k),
      capacity_(k_ + std::max<std::size_t>(64, k_)),
      most_passed_(cascade.n / 4 + 4096) {}

void CascadeCandidates::begin(const QueryBlock& block,
                              const std::vector<std::vector<Neighbour>>& found) {
  block_ = &block;
  going_on_ = 0;
  queries_.resize(block.count());
  reach_.assign(block.count(), kInfinity);
  for (std::size_t i = 0; i < block.count(); ++i) {
    OfQuery& query = queries_[i];
    query.passed = 0;
    query.gave_up = query.goes_on = false;
    query.pool.clear();
    query.ends.clear();
    for (const Neighbour& other : found[block.number(i)])
      keep(i, {keys_of(i).low(other.key), keys_of(i).high(other.key), other.key, other.id, kNoRow});
  }
}

// A query that many rows pass is better off with the flat search, together with others. Alone it is
// not, since that search reads every row. So a few queries of a block go on.
void CascadeCandidates::count_passed(std::size_t i, std::size_t rows) {
  OfQuery& query = queries_[i];
  query.passed += rows;
  if (query.passed <= most_passed_ || query.goes_on) return;
  if (cascade_.code_depth > 0 && going_on_ < kMostGoingOn) {
    query.goes_on = true;
    ++going_on_;
    return;
  }
  query.gave_up = true;
  reach_[i] = -kInfinity;
}

void CascadeCandidates::keep(std::size_t i, const CascadeCandidate& candidate) {
  OfQuery& query = queries_[i];
  if (candidate.low > reach_[i]) return;
  query.pool.push_back(candidate);
  keep_smallest(query.ends, k_, candidate.high);
  if (query.ends.size() == k_) tighten(i, query.ends.front());
  if (query.pool.size() >= capacity_) thin(i);
}

void CascadeCandidates::tighten(std::size_t i, double kth) {
  reach_[i] = std::min(reach_[i], keys_of(i).reach(kth));
}

// Drops what lies beyond the reach. Where bounds are too wide to drop enough (ties, duplicates),
// canonical keys decide.
void CascadeCandidates::thin(std::size_t i) {
  std::vector<CascadeCandidate>& pool = queries_[i].pool;
  ++thinnings;
  drop_far(pool, pool.begin(), reach_[i]);
  if (4 * (capacity_ - pool.size()) >= capacity_ - k_) return;
  ++exact_thinnings;
  for (CascadeCandidate& c : pool)
    if (!c.has_key()) keys_.want(block_->number(i), c);
  keys_.find();
  const auto kth = pool.begin() + static_cast<std::ptrdiff_t>(k_);
  std::nth_element(pool.begin(), kth, pool.end(),
                   [](const CascadeCandidate& a, const CascadeCandidate& b) {
                     return a.key != b.key ? a.key < b.key : a.id < b.id;
                   });
  pool.erase(kth, pool.end());
  rebuild_ends(i);
}

// Finds the k smallest upper ends again, after those in the pool have changed. The pool has at
// least k, unless a row has been written to or a file's bounds are wrong.
void CascadeCandidates::rebuild_ends(std::size_t i) {
  std::vector<double>& ends = queries_[i].ends;
  ends.clear();
  for (const CascadeCandidate& c : queries_[i].pool) ends.push_back(c.high);
  if (ends.size() > k_) {
    const auto kth = ends.begin() + static_cast<std::ptrdiff_t>(k_);
    std::nth_element(ends.begin(), kth - 1, ends.end());
    ends.erase(kth, ends.end());
  }
  std::make_heap(ends.begin(), ends.end());
  if (ends.size() == k_) tighten(i, ends.front());
}

void CascadeCandidates::settle() {
  if (cascade_.code_depth == 0) return;  // every candidate has its key
  for (std::size_t i = 0; i < queries_.size(); ++i) {
    OfQuery& query = queries_[i];
    if (query.gave_up || query.ends.size() < k_) continue;
    const double kth = query.ends.front();
    for (CascadeCandidate& c : query.pool)
      if (!c.has_key() && c.high <= kth) keys_.want(block_->number(i), c);
  }
  keys_.sort_by_row(cascade_.n);
  keys_.find();
  for (std::size_t i = 0; i < queries_.size(); ++i)
    if (!queries_[i].gave_up && queries_[i].ends.size() == k_) rebuild_ends(i);
}

// Adds what has a key already first, then the others from the least lower end on, until that end
// lies beyond the reach of the k-th key.
void CascadeCandidates::finish(std::size_t i, std::vector<Neighbour>& found) {
  std::vector<CascadeCandidate>& pool = queries_[i].pool;
  const auto unknown = std::partition(pool.begin(), pool.end(),
                                      [](const CascadeCandidate& c) { return c.has_key(); });
  std::vector<double>& nearest = queries_[i].ends;  // from now on a heap of the k smallest keys
  nearest.clear();
  const auto add = [&](const CascadeCandidate& c) {
    if (c.low > reach_[i]) return;
    if (c.row != kNoRow) found.push_back({c.key, c.id, scope_.start + c.row});
    keep_smallest(nearest, k_, c.key);
    if (nearest.size() == k_) tighten(i, keys_of(i).high(nearest.front()));
  };
  std::for_each(pool.begin(), unknown, add);
  drop_far(pool, unknown, reach_[i]);
  std::sort(unknown, pool.end(),
            [](const CascadeCandidate& a, const CascadeCandidate& b) { return a.low < b.low; });
  for (auto c = unknown; c != pool.end() && c->low <= reach_[i];) {
    const auto first = c;
    for (; c != pool.end() && c < first + KeyQueue::kTogether && c->low <= reach_[i]; ++c)
      keys_.want(block_->number(i), *c);
    keys_.find();
    std::for_each(first, c, add);
  }
}

}  // namespace resmem
