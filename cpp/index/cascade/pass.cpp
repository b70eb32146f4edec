#include "pass.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace resmem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
// Beyond this a score of 16 bits cannot hold what lies within the threshold.
constexpr double kLargestThreshold = 65532;
constexpr std::size_t kNear = 8;      // clusters that a query visits before the block does
constexpr std::size_t kSeedRows = 4;  // times k rows are scored to choose k of them
constexpr std::size_t kAhead = 4;     // rows on their way while one is looked at
constexpr std::size_t kTogether = 4;  // canonical keys
constexpr std::size_t kPollKeys = 256;
constexpr std::size_t kGoOn = 4;  // queries of a block that never give up

// A heap of the k smallest values, one more of which has come.
void keep_smallest(std::vector<double>& heap, std::size_t k, double value) {
  if (heap.size() == k) {
    if (value >= heap.front()) return;
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
  }
  heap.push_back(value);
  std::push_heap(heap.begin(), heap.end());
}

}  // namespace

CascadePass::CascadePass(const Cascade& cascade, const IndexScope& scope,
                         const CodedQueries& queries, Interrupt& interrupt)
    : scope_(scope),
      coded_(queries),
      cascade_(cascade),
      interrupt_(interrupt),
      k_(scope.request.k),
      capacity_(k_ + std::max<std::size_t>(64, k_)),
      most_hits_(cascade_.n / 4 + 4096) {
  hits_.resize(kChunkRows * kBlockQueries);
  scores_.resize(kChunkRows);
  scratch_.resize(kTogether * scope.request.d);
}

void CascadePass::begin(const std::uint32_t* queries, std::size_t count, std::size_t part,
                        std::size_t parts, const std::vector<std::vector<Neighbour>>& found) {
  queries_ = queries;
  count_ = count;
  find_mine(part, parts);
  going_on_ = 0;
  odd_is_mine_ = cascade_.clusters % parts == part;
  each_.resize(count);
  reach_.assign(count, kInfinity);
  slack_.resize(count);
  error_.resize(count);
  square_.resize(count);
  away_.resize(cascade_.clusters * count);
  for (std::size_t i = 0; i < count; ++i) {
    Each& each = each_[i];
    const CodedQuery& coded = coded_[queries[i]];
    slack_[i] = coded.slack;
    error_[i] = coded.error;
    square_[i] = static_cast<double>(coded.square);
    each.hits = 0;
    each.gave_up = each.goes_on = false;
    each.pool.clear();
    each.ends.clear();
    each.seeds.clear();
    for (std::size_t c = 0; c < cascade_.clusters; ++c)
      away_[c * count + i] = coded_.away(queries[i])[c];
    for (const Neighbour& other : found[queries[i]]) {
      keep(i, {coded.keys.low(other.key), coded.keys.high(other.key), other.key, other.id, kNoRow});
    }
  }
}

// From near to far as seen by the block, so that each part has near ones.
void CascadePass::find_mine(std::size_t part, std::size_t parts) {
  std::vector<double> sum(cascade_.clusters);
  for (std::size_t i = 0; i < count_; ++i)
    for (std::size_t c = 0; c < cascade_.clusters; ++c) sum[c] += coded_.away(queries_[i])[c];
  order_.resize(cascade_.clusters);
  std::iota(order_.begin(), order_.end(), 0U);
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return sum[a] != sum[b] ? sum[a] < sum[b] : a < b;
  });
  mine_.clear();
  for (std::size_t c = part; c < cascade_.clusters; c += parts) mine_.push_back(order_[c]);
}

void CascadePass::run(bool calling_thread) {
  calling_thread_ = calling_thread;
  near_count_ = std::min(kNear, mine_.size());
  near_.resize(count_ * near_count_);
  visit_odd();
  for (std::uint32_t i = 0; i < count_; ++i) {
    find_near(i);
    seed(i);
  }
  visit_near();
  settle();
  visit_others();
}

// Rows whose codes are odd lie far out, and so do queries whose codes are cut off: these may find
// their neighbours there, and no reach elsewhere.
void CascadePass::visit_odd() {
  who_.clear();
  const double rounded = std::sqrt(static_cast<double>(cascade_.projection.coordinates())) / 2;
  for (std::uint32_t i = 0; i < count_; ++i) {
    each_[i].met_odd = odd_is_mine_ && (error_[i] - slack_[i]) * cascade_.scale > rounded;
    if (each_[i].met_odd) who_.push_back(i);
  }
  if (!who_.empty()) visit(static_cast<std::uint32_t>(cascade_.clusters));
}

void CascadePass::find_near(std::size_t i) {
  order_ = mine_;
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(near_count_);
  std::partial_sort(order_.begin(), end, order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return away(a, i) != away(b, i) ? away(a, i) < away(b, i) : a < b;
  });
  std::copy(order_.begin(), end, near_.begin() + static_cast<std::ptrdiff_t>(i * near_count_));
}

// A first reach: of the rows of the nearest clusters, the k that look nearest by their codes.
void CascadePass::seed(std::uint32_t i) {
  scored_.clear();
  for (std::size_t c = 0; c < near_count_ && reach_[i] == kInfinity; ++c) {
    poll();
    score(i, near_[i * near_count_ + c]);
    if (scored_.size() >= kSeedRows * k_ || c + 1 == near_count_) take_seeds(i);
  }
  std::sort(each_[i].seeds.begin(), each_[i].seeds.end());
}

void CascadePass::score(std::size_t i, std::uint32_t cluster) {
  const std::uint8_t* codes = coded_.codes(queries_[i]);
  // The best score is the largest of 16 bits, halves rounded: codes up to 362 units apart keep
  // their order.
  const auto threshold = static_cast<std::int32_t>(square_[i] / 2) - 32766;
  for (std::size_t c = cascade_.starts[cluster]; c < cascade_.starts[cluster + 1]; ++c) {
    const Chunk& chunk = cascade_.chunks[c];
    scope_.kernels.codes.score(
        {&cascade_.panels[chunk.first * cascade_.depth], &cascade_.init[chunk.first], chunk.count,
         cascade_.depth, &codes, &threshold, 1, nullptr},
        scores_.data());
    stats.pairs_coded += chunk.count;
    for (std::uint32_t r = 0; r < chunk.count; ++r)
      scored_.push_back({scores_[r], chunk.first + r});
  }
}

void CascadePass::take_seeds(std::uint32_t i) {
  const auto end = scored_.begin() + static_cast<std::ptrdiff_t>(std::min(k_, scored_.size()));
  std::nth_element(scored_.begin(), end, scored_.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.place < b.place;
  });
  pairs_.clear();
  for (auto s = scored_.begin(); s != end; ++s) pairs_.push_back({s->place, i});
  take_pairs();
  for (auto s = scored_.begin(); s != end; ++s) each_[i].seeds.push_back(s->place);
  scored_.clear();
}

// Every query's own nearest clusters. Each is visited once, by all queries of the block that have
// it among theirs, and early if it is among the first of many.
void CascadePass::visit_near() {
  std::vector<std::uint32_t> takers(cascade_.clusters), ranks(cascade_.clusters);
  order_.clear();
  for (std::size_t at = 0; at < near_.size(); ++at) {
    if (takers[near_[at]]++ == 0) order_.push_back(near_[at]);
    ranks[near_[at]] += static_cast<std::uint32_t>(at % near_count_);
  }
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    const std::uint64_t left = std::uint64_t{ranks[a]} * takers[b];
    const std::uint64_t right = std::uint64_t{ranks[b]} * takers[a];
    return left != right ? left < right : a < b;
  });
  for (const std::uint32_t cluster : order_) {
    who_.clear();
    for (std::size_t at = 0; at < near_.size(); ++at)
      if (near_[at] == cluster) who_.push_back(static_cast<std::uint32_t>(at / near_count_));
    visit(cluster);
    for (const std::uint32_t i : who_) away(cluster, i) = kInfinity;
  }
}

// Bounds by coded rows widen the reach: before most rows are looked at, the rows that look nearest
// are found exactly. Nearly all of them stay. Queries of a block share many of them.
void CascadePass::settle() {
  if (cascade_.code_depth == 0) return;
  for (std::size_t i = 0; i < count_; ++i) {
    Each& each = each_[i];
    if (each.gave_up || each.ends.size() < k_) continue;
    const double kth = each.ends.front();
    for (Candidate& c : each.pool)
      if (std::isnan(c.key) && c.high <= kth) want_key(i, c);
  }
  sort_wanted();
  find_keys();
  for (std::size_t i = 0; i < count_; ++i)
    if (!each_[i].gave_up && each_[i].ends.size() == k_) rebuild_ends(i);
}

// By row, as far as caches care: in one pass, to so many stretches of all rows.
void CascadePass::sort_wanted() {
  constexpr std::size_t kStretches = 4096;
  const auto stretch = [&](const Wanted& w) { return w.candidate->row * kStretches / cascade_.n; };
  std::vector<std::uint32_t> next(kStretches + 1);
  for (const Wanted& w : wanted_) ++next[stretch(w) + 1];
  for (std::size_t s = 0; s < kStretches; ++s) next[s + 1] += next[s];
  std::vector<Wanted> sorted(wanted_.size());
  for (const Wanted& w : wanted_) sorted[next[stretch(w)]++] = w;
  wanted_.swap(sorted);
}

// All other clusters, from near to far as seen by the block; rows whose codes are odd come last.
void CascadePass::visit_others() {
  order_ = mine_;
  const auto odd = static_cast<std::uint32_t>(cascade_.clusters);
  if (odd_is_mine_) order_.push_back(odd);
  for (const std::uint32_t cluster : order_) {
    poll();
    who_.clear();
    for (std::uint32_t i = 0; i < count_; ++i)
      if (cluster == odd ? !each_[i].met_odd : may_hold(cluster, i)) who_.push_back(i);
    if (!who_.empty()) visit(cluster);
  }
}

// Not visited yet, and not out of reach as a whole.
bool CascadePass::may_hold(std::uint32_t cluster, std::size_t i) const {
  const double from = away_[cluster * count_ + i];
  return from < kInfinity && coded_.least(cascade_.whole[cluster], from, slack_[i]) <= reach_[i];
}

// The cluster's rows and the queries of who_.
void CascadePass::visit(std::uint32_t cluster) {
  const bool bounded = cluster < cascade_.clusters;
  const double* away = bounded ? &away_[cluster * count_] : nullptr;
  for (std::size_t c = cascade_.starts[cluster]; c < cascade_.starts[cluster + 1]; ++c) {
    const Chunk& chunk = cascade_.chunks[c];
    poll();
    active_.clear();
    pointers_.clear();
    thresholds_.clear();
    for (const std::uint32_t i : who_) {
      if (each_[i].gave_up) continue;
      if (bounded && coded_.least(chunk, away[i], slack_[i]) > reach_[i]) continue;
      const double limit = coded_.limit(chunk, reach_[i], error_[i]);
      if (!(limit <= kLargestThreshold)) {
        take_all(chunk, i);
        continue;
      }
      active_.push_back(i);
      pointers_.push_back(coded_.codes(queries_[i]));
      // The codes of queries carry an offset, whose part of the product init takes away.
      thresholds_.push_back(static_cast<std::int32_t>(std::floor((square_[i] - limit) / 2)));
    }
    if (!active_.empty()) scan(chunk);
  }
}

void CascadePass::scan(const Chunk& chunk) {
  const CodeScanArgs args{&cascade_.panels[chunk.first * cascade_.depth],
                          &cascade_.init[chunk.first],
                          chunk.count,
                          cascade_.depth,
                          pointers_.data(),
                          thresholds_.data(),
                          active_.size(),
                          hits_.data()};
  const std::size_t found = scope_.kernels.codes.scan(args);
  stats.pairs_coded += active_.size() * chunk.count;
  stats.code_hits += found;
  pair_by_row(chunk, found);
  for (const Pair& pair : pairs_) count_hits(pair.query, 1);
  take_pairs();
}

// A row that several queries hit is then read from memory once, and rows in their order.
void CascadePass::pair_by_row(const Chunk& chunk, std::size_t found) {
  std::array<std::uint32_t, kChunkRows + 1> next{};
  for (std::size_t h = 0; h < found; ++h) ++next[hits_[h].row + 1];
  for (std::uint32_t r = 0; r < kChunkRows; ++r) next[r + 1] += next[r];
  pairs_.resize(found);
  for (std::size_t h = 0; h < found; ++h)
    pairs_[next[hits_[h].row]++] = {chunk.first + hits_[h].row, active_[hits_[h].query]};
}

void CascadePass::take_all(const Chunk& chunk, std::uint32_t i) {
  pairs_.clear();
  for (std::uint32_t r = 0; r < chunk.count; ++r) pairs_.push_back({chunk.first + r, i});
  count_hits(i, chunk.count);
  take_pairs();
}

// A query that most rows pass is better off with the plain search, together with others. Alone it
// is not, for that reads every row: a few of a block go on.
void CascadePass::count_hits(std::size_t i, std::size_t hits) {
  Each& each = each_[i];
  each.hits += hits;
  if (each.hits <= most_hits_ || each.goes_on) return;
  if (cascade_.code_depth > 0 && going_on_ < kGoOn) {
    each.goes_on = true;
    ++going_on_;
    return;
  }
  each.gave_up = true;
  reach_[i] = -kInfinity;
}

// Rows that passed the projection: bound their distances by their own codes, or find them.
void CascadePass::take_pairs() {
  if (cascade_.code_depth > 0) weigh_pairs();
  fresh_.resize(pairs_.size());
  std::size_t count = 0;
  for (std::size_t h = 0; h < pairs_.size(); ++h) {
    const Pair pair = pairs_[h];
    const std::size_t i = pair.query;
    const std::uint32_t row = cascade_.rows[pair.place];
    if (row == kNoRow || each_[i].gave_up) continue;  // padding
    const std::vector<std::uint32_t>& seeds = each_[i].seeds;
    if (std::binary_search(seeds.begin(), seeds.end(), pair.place)) continue;
    const std::int64_t id = scope_.segment.id(row);
    if (!visible(i, row, id)) continue;
    pairs_[count] = pair;
    Candidate& c = fresh_[count++] = {0, 0, kUnknown, id, row};
    if (cascade_.code_depth == 0) {
      want_key(i, c);
      continue;
    }
    const double error = coded_.coded_error(queries_[i], pair.place);
    c.low = coded_.low(queries_[i], squares_[h], error);
    c.high = coded_.high(queries_[i], squares_[h], error);
  }
  find_keys();
  for (std::size_t h = 0; h < count; ++h)
    if (fresh_[h].low < kInfinity) keep(pairs_[h].query, fresh_[h]);
}

// Leaves the pairs within reach by the rows' own codes, and their squared distances.
void CascadePass::weigh_pairs() {
  const std::size_t count = pairs_.size();
  const auto fetch = [&](std::size_t h) {
    if (h < count && (h == 0 || pairs_[h].place != pairs_[h - 1].place)) prefetch(pairs_[h].place);
  };
  for (std::size_t h = 0; h < kAhead; ++h) fetch(h);
  stats.rows_coded += count;
  squares_.resize(count);
  for (std::size_t h = 0; h < count;) {  // a row and those that hit it
    std::size_t queries[CodedQueries::kMostSquares], some = 0;
    const std::uint32_t place = pairs_[h].place;
    for (; h + some < count && some < CodedQueries::kMostSquares && pairs_[h + some].place == place;
         ++some) {
      queries[some] = queries_[pairs_[h + some].query];
      fetch(h + some + kAhead);
    }
    coded_.coded_squares(place, queries, some, &squares_[h]);
    h += some;
  }
  // Which of them stay is hard to predict: no branches.
  std::size_t stay = 0;
  for (std::size_t h = 0; h < count; ++h) {
    const Pair pair = pairs_[h];
    const std::size_t query = queries_[pair.query];
    const double square = squares_[h], error = coded_.coded_error(query, pair.place);
    pairs_[stay] = pair;
    squares_[stay] = square;
    stay += coded_.may_reach(query, square, error, reach_[pair.query]) ? 1 : 0;
  }
  pairs_.resize(stay);
}

void CascadePass::keep(std::size_t i, const Candidate& candidate) {
  Each& each = each_[i];
  if (candidate.low > reach_[i]) return;
  each.pool.push_back(candidate);
  keep_smallest(each.ends, k_, candidate.high);
  if (each.ends.size() == k_) tighten(i, each.ends.front());
  if (each.pool.size() >= capacity_) thin(i);
}

void CascadePass::tighten(std::size_t i, double kth) {
  reach_[i] = std::min(reach_[i], keys(i).reach(kth));
}

void CascadePass::drop_far(std::size_t i) {
  Each& each = each_[i];
  each.pool.erase(std::remove_if(each.pool.begin(), each.pool.end(),
                                 [&](const Candidate& c) { return c.low > reach_[i]; }),
                  each.pool.end());
}

// Drops what lies beyond the reach. Where bounds are too wide for that (ties, duplicates),
// canonical keys decide.
void CascadePass::thin(std::size_t i) {
  Each& each = each_[i];
  ++stats.thinnings;
  drop_far(i);
  if (4 * (capacity_ - each.pool.size()) >= capacity_ - k_) return;
  ++stats.exact_thinnings;
  for (Candidate& c : each.pool)
    if (std::isnan(c.key)) want_key(i, c);
  find_keys();
  const auto kth = static_cast<std::ptrdiff_t>(k_);
  std::nth_element(each.pool.begin(), each.pool.begin() + kth, each.pool.end(),
                   [&](const Candidate& a, const Candidate& b) {
                     return a.key != b.key ? a.key < b.key : a.id < b.id;
                   });
  each.pool.erase(each.pool.begin() + kth, each.pool.end());
  rebuild_ends(i);
}

// After upper ends in the pool have changed. There are k of them at least, unless a row has been
// written to or a file's bounds are wrong.
void CascadePass::rebuild_ends(std::size_t i) {
  std::vector<double>& ends = each_[i].ends;
  ends.clear();
  for (const Candidate& c : each_[i].pool) ends.push_back(c.high);
  if (ends.size() > k_) {
    const auto kth = ends.begin() + static_cast<std::ptrdiff_t>(k_);
    std::nth_element(ends.begin(), kth - 1, ends.end());
    ends.erase(kth, ends.end());
  }
  std::make_heap(ends.begin(), ends.end());
  if (ends.size() == k_) tighten(i, ends.front());
}

// What has a key already, then the others from the least lower end on, until that lies beyond the
// k-th key.
void CascadePass::finish(std::size_t i, std::vector<Neighbour>& found) {
  std::vector<Candidate>& pool = each_[i].pool;
  const auto unknown = std::partition(pool.begin(), pool.end(),
                                      [](const Candidate& c) { return !std::isnan(c.key); });
  std::vector<double>& nearest = each_[i].ends;  // now a heap of the k smallest keys
  nearest.clear();
  const auto add = [&](const Candidate& c) {
    if (c.low > reach_[i]) return;
    if (c.row != kNoRow) found.push_back({c.key, c.id, scope_.start + c.row});
    keep_smallest(nearest, k_, c.key);
    if (nearest.size() == k_) tighten(i, keys(i).high(nearest.front()));
  };
  std::for_each(pool.begin(), unknown, add);
  pool.erase(
      std::remove_if(unknown, pool.end(), [&](const Candidate& c) { return c.low > reach_[i]; }),
      pool.end());
  std::sort(unknown, pool.end(),
            [](const Candidate& a, const Candidate& b) { return a.low < b.low; });
  for (auto c = unknown; c != pool.end() && c->low <= reach_[i];) {
    const auto first = c;
    for (; c != pool.end() && c < first + kTogether && c->low <= reach_[i]; ++c) want_key(i, *c);
    find_keys();
    std::for_each(first, c, add);
  }
}

bool CascadePass::visible(std::size_t i, std::uint32_t row, std::int64_t id) const {
  return !scope_.segment.dead(row, scope_.request.version) &&
         !scope_.exclusions.excludes(scope_.first + queries_[i], id);
}

// Later, together with others: find_keys() ends what may move candidates.
void CascadePass::want_key(std::size_t i, Candidate& c) { wanted_.push_back({i, &c}); }

void CascadePass::find_keys() {
  const std::size_t d = scope_.request.d, count = wanted_.size();
  const auto fetch = [&](std::size_t w) {
    if (w < count) prefetch_row(scope_.segment.keys, wanted_[w].candidate->row, d);
  };
  for (std::size_t w = 0; w < kTogether; ++w) fetch(w);
  for (std::size_t first = 0; first < count; first += kTogether) {
    if (first % kPollKeys == 0) poll();
    const std::size_t some = std::min(kTogether, count - first);
    const CanonicalKey* of[kTogether];
    const float* rows[kTogether];
    double keys[kTogether];
    for (std::size_t w = 0; w < some; ++w) {
      fetch(first + w + kTogether);
      of[w] = &coded_.canonical(queries_[wanted_[first + w].query]);
      rows[w] = scope_.segment.keys.read(wanted_[first + w].candidate->row * d, d, &scratch_[w * d],
                                         scope_.kernels);
    }
    canonical_keys(of, rows, some, keys);
    for (std::size_t w = 0; w < some; ++w) {
      const Wanted& wanted = wanted_[first + w];
      const KeyDistance& distance = this->keys(wanted.query);
      *wanted.candidate = {distance.low(keys[w]), distance.high(keys[w]), keys[w],
                           wanted.candidate->id, wanted.candidate->row};
    }
  }
  stats.rescored += count;
  wanted_.clear();
}

// What weigh_pairs() reads of a row.
void CascadePass::prefetch(std::uint32_t place) const {
  prefetch_bytes(&cascade_.codes[place * cascade_.code_depth], cascade_.code_depth);
  prefetch_bytes(&cascade_.coded[place], sizeof(CodedRow));
}

}  // namespace resmem
