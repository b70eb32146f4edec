#include "cascade_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "../core/head.h"
#include "../core/rounding.h"

namespace resmem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kBlockQueries = 96;  // pass a chunk together: their codes stay in level 1
constexpr std::size_t kQueryBytes = std::size_t{16} << 20;
// Beyond this a score of 16 bits cannot hold what lies within the threshold.
constexpr double kLargestThreshold = 65532;

// A row that may be among the k nearest: its distance lies in [low, high].
struct Candidate {
  double low, high;
  double key;  // canonical, or NaN while it is not known
  std::int64_t id;
  std::uint32_t row;  // kNoRow: it was found elsewhere
};

// What is known of a query before any row is looked at.
struct CodedQuery {
  double slack;         // |computed Phi - Phi|
  double error;         // |coded Phi - Phi|
  std::int64_t square;  // |code|^2
  double unit;          // a product of codes stands for unit times as much
  double offset_square;
};

class CascadeSearch {
 public:
  CascadeSearch(const SearchRequest& request, const Cascade& cascade, const Segment& segment,
                std::size_t start, const KernelTable& kernels, const Exclusions& exclusions,
                std::size_t first, std::size_t count, Interrupt& interrupt)
      : request_(request),
        cascade_(cascade),
        segment_(segment),
        start_(start),
        kernels_(kernels),
        exclusions_(exclusions),
        first_(first),
        count_(count),
        interrupt_(interrupt),
        theta_(canonical_rounding(request.d)) {}

  void prepare();
  void lay_open(const CascadeBounds& bounds) const;
  void search(std::vector<std::vector<Neighbour>>& found, std::vector<std::uint8_t>& deferred);

  SearchStats stats;

 private:
  class Pass;
  void code(std::size_t i, const float* layer);

  // What each stage promises of query i; README.md derives all three.
  double least(std::size_t i, const Chunk& chunk) const;
  double limit(std::size_t i, const Chunk& chunk, double reach) const;
  void bound(std::size_t i, const Chunk& chunk, std::size_t place, double* low, double* high) const;

  const float* query(std::size_t i) const { return request_.queries + (first_ + i) * request_.d; }
  double* away(std::size_t i) { return away_.data() + i * cascade_.clusters; }
  const double* away(std::size_t i) const { return away_.data() + i * cascade_.clusters; }

  const SearchRequest& request_;
  const Cascade& cascade_;
  const Segment& segment_;
  const std::size_t start_;
  const KernelTable& kernels_;
  const Exclusions& exclusions_;
  const std::size_t first_, count_;
  Interrupt& interrupt_;
  const double theta_;

  std::vector<CodedQuery> coded_;
  std::vector<std::uint8_t> codes_;   // (count, depth)
  std::vector<std::int16_t> wide_;    // (count, code_depth)
  std::vector<double> away_;          // (count, clusters)
  std::vector<std::uint32_t> order_;  // by nearest cluster
  std::mutex mutex_;
};

void CascadeSearch::prepare() {
  const Projection& map = cascade_.projection;
  const LinearHead layer{map.weight.data(), map.bias.data(), map.axes, map.d, 1};
  std::vector<float> out(count_ * map.axes);
  head_logits(
      layer, count_, [&](std::size_t i, float*) { return query(i); }, kernels_, request_.threads,
      out.data(), interrupt_);
  coded_.resize(count_);
  codes_.assign(count_ * cascade_.depth, 0);
  wide_.assign(count_ * cascade_.code_depth, 0);
  away_.resize(count_ * cascade_.clusters);
  parallel_for_rows(count_, (cascade_.clusters + 2) * (map.coordinates() + map.d), request_.threads,
                    interrupt_, [&](std::size_t begin, std::size_t end, bool) {
                      for (std::size_t i = begin; i < end; ++i) code(i, &out[i * map.axes]);
                    });
  std::vector<std::uint32_t> nearest(count_);
  for (std::size_t i = 0; i < count_; ++i)
    nearest[i] = static_cast<std::uint32_t>(std::min_element(away(i), away(i) + cascade_.clusters) -
                                            away(i));
  order_.resize(count_);
  std::iota(order_.begin(), order_.end(), 0U);
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return nearest[a] != nearest[b] ? nearest[a] < nearest[b] : a < b;
  });
}

void CascadeSearch::code(std::size_t i, const float* layer) {
  const Projection& map = cascade_.projection;
  const std::size_t width = map.coordinates();
  CodedQuery& coded = coded_[i];
  std::vector<float> phi(width);
  coded.slack = map.map(query(i), layer, kernels_, phi.data());
  double off_square = 0;
  coded.square = 0;
  std::uint8_t* codes = &codes_[i * cascade_.depth];
  for (std::size_t p = 0; p < width; ++p) {
    const double value = static_cast<double>(phi[p]);
    const double code = std::clamp(std::nearbyint(value * cascade_.scale), -64.0, 63.0);
    codes[p] = static_cast<std::uint8_t>(static_cast<int>(code) + kQueryOffset);
    coded.square += static_cast<std::int64_t>(code * code);
    const double off = value - code / cascade_.scale;
    off_square += off * off;
  }
  const auto w = static_cast<double>(width);
  coded.error = std::sqrt(off_square) * (1 + (w + 16) * kV) + coded.slack;
  for (std::size_t c = 0; c < cascade_.clusters; ++c)
    away(i)[c] =
        std::sqrt(kernels_.squared_distance(phi.data(), &cascade_.centres[c * width], width));
  if (cascade_.code_depth == 0) return;

  const float* q = query(i);
  coded.offset_square = kernels_.squared_distance(map.offset.data(), q, map.d);
  double largest = 0;
  const auto product = [&](std::size_t p) {
    return static_cast<double>(cascade_.steps[p]) *
           (static_cast<double>(q[p]) - static_cast<double>(map.offset[p]));
  };
  for (std::size_t p = 0; p < map.d; ++p) largest = std::max(largest, std::fabs(product(p)));
  // No sum of products of codes, at most 127 times this, leaves int32.
  const double most =
      std::min(32767.0, std::floor(2147483647.0 / 127 / static_cast<double>(map.d)));
  coded.unit = largest > 0 ? largest / most : 1;
  std::int16_t* wide = &wide_[i * cascade_.code_depth];
  for (std::size_t p = 0; p < map.d; ++p)
    wide[p] =
        static_cast<std::int16_t>(std::clamp(std::nearbyint(product(p) / coded.unit), -most, most));
}

// No row of the chunk is nearer.
double CascadeSearch::least(std::size_t i, const Chunk& chunk) const {
  if (chunk.cluster >= cascade_.clusters) return 0;
  const double distance = away(i)[chunk.cluster];
  const double outside = distance * (1 - theta_) - static_cast<double>(chunk.far);
  const double inside = static_cast<double>(chunk.near) - distance * (1 + theta_);
  return std::max(0.0, std::max(outside, inside) - coded_[i].slack);
}

// The squared distance between codes that no row of the chunk within `reach` exceeds.
double CascadeSearch::limit(std::size_t i, const Chunk& chunk, double reach) const {
  const double units =
      cascade_.scale * (reach + coded_[i].error + static_cast<double>(chunk.error));
  return units * units * (1 + 16 * kV);
}

// Both ends of a row's distance, by its own codes.
void CascadeSearch::bound(std::size_t i, const Chunk& chunk, std::size_t place, double* low,
                          double* high) const {
  const CodedQuery& coded = coded_[i];
  const std::size_t depth = cascade_.code_depth;
  const std::int32_t product =
      kernels_.code_dot(&cascade_.codes[place * depth], &wide_[i * depth], depth);
  const double square = static_cast<double>(cascade_.squares[place]) + coded.offset_square -
                        2 * coded.unit * static_cast<double>(product);
  const double off = coded.unit * cascade_.code_sum * (1 + 0x1p-29) +
                     cascade_.largest_square * 0x1p-23 + coded.offset_square * 2 * theta_;
  const auto error = static_cast<double>(chunk.code_error);
  *low = std::sqrt(std::max(0.0, square - off)) * (1 - 8 * kV) - error;
  *high = std::sqrt(std::max(0.0, square + off)) * (1 + 8 * kV) + error;
}

// One thread's pass: a block of queries against the clusters of one part.
class CascadeSearch::Pass {
 public:
  Pass(CascadeSearch& search, const std::uint32_t* queries, std::size_t count, std::size_t part,
       std::size_t parts, const std::vector<std::vector<Neighbour>>& found)
      : s_(search),
        cascade_(search.cascade_),
        queries_(queries),
        count_(count),
        part_(static_cast<std::uint32_t>(part)),
        parts_(parts),
        capacity_(search.request_.k + std::max<std::size_t>(64, search.request_.k)),
        most_hits_(search.cascade_.n / 4 + 4096) {
    each_.resize(count);
    hits_.resize(kChunkRows * count);
    for (std::size_t i = 0; i < count; ++i) {
      Each& each = each_[i];
      each.pool.reserve(capacity_ + 1);
      each.next = s_.request_.k;
      // Rows found elsewhere count towards the k; they are not rows of this cascade.
      for (const Neighbour& other : found[queries[i]]) {
        const double distance = std::sqrt(other.key);
        each.pool.push_back({distance, distance * (1 + s_.theta_), other.key, other.id, kNoRow});
      }
      if (each.pool.size() >= s_.request_.k) thin(each, i);
    }
  }

  void run(bool calling_thread) {
    for (std::size_t i = 0; i < count_; ++i) seed(i, calling_thread);
    for (const std::uint32_t cluster : visiting_order()) {
      s_.interrupt_.poll(calling_thread);
      for (std::size_t c = cascade_.starts[cluster]; c < cascade_.starts[cluster + 1]; ++c)
        pass_chunk(cascade_.chunks[c]);
    }
  }

  bool gave_up(std::size_t i) const { return each_[i].gave_up; }
  // What may be among the k nearest, with canonical keys: from the least lower end on, until that
  // lies beyond the k-th key.
  void finish(std::size_t i, std::vector<Neighbour>& found) {
    Each& each = each_[i];
    std::sort(each.pool.begin(), each.pool.end(),
              [](const Candidate& a, const Candidate& b) { return a.low < b.low; });
    const std::size_t k = s_.request_.k;
    std::vector<double> nearest;  // a heap of the k smallest keys
    for (std::size_t j = 0; j < each.pool.size(); ++j) {
      if (j + kAhead < each.pool.size() && each.pool[j + kAhead].row != kNoRow)
        prefetch_row(s_.segment_.keys, each.pool[j + kAhead].row, s_.request_.d);
      Candidate& c = each.pool[j];
      if (c.low > each.reach) break;
      if (std::isnan(c.key)) c.key = key(i, c.row);
      if (c.row != kNoRow) found.push_back({c.key, c.id, s_.start_ + c.row});
      nearest.push_back(c.key);
      std::push_heap(nearest.begin(), nearest.end());
      if (nearest.size() < k) continue;
      if (nearest.size() > k) {
        std::pop_heap(nearest.begin(), nearest.end());
        nearest.pop_back();
      }
      each.reach = std::min(each.reach, std::sqrt(nearest.front()) * (1 + 2 * s_.theta_));
    }
  }

  SearchStats stats;

 private:
  struct Each {
    double reach = kInfinity;        // no row farther than this is among the k nearest
    std::size_t hits = 0, next = 0;  // next: the size at which the pool is thinned
    bool gave_up = false;
    std::vector<Candidate> pool;
    std::vector<std::uint32_t> seeded;  // clusters
  };

  static constexpr std::size_t kAhead = 2;  // rows on their way while one is looked at

  void prefetch_codes(std::uint32_t place) const {
    const std::int8_t* at = cascade_.codes.data() + place * cascade_.code_depth;
    for (std::size_t b = 0; b < cascade_.code_depth; b += 64) __builtin_prefetch(at + b);
    __builtin_prefetch(&cascade_.squares[place]);
  }

  double key(std::size_t i, std::uint32_t row) {
    ++stats.rescored;
    const CanonicalKey of(s_.request_, s_.kernels_, s_.first_ + queries_[i]);
    scratch_.resize(s_.request_.d);
    return of(
        s_.segment_.keys.read(row * s_.request_.d, s_.request_.d, scratch_.data(), s_.kernels_));
  }

  bool mine(std::uint32_t cluster) const { return cluster % parts_ == part_; }
  std::vector<std::uint32_t> my_clusters() const {
    std::vector<std::uint32_t> clusters;
    for (std::uint32_t c = part_; c < cascade_.clusters; c += static_cast<std::uint32_t>(parts_))
      clusters.push_back(c);
    return clusters;
  }

  // All rows of the nearest clusters until there are k: a first threshold.
  void seed(std::size_t i, bool calling_thread) {
    Each& each = each_[i];
    const double* away = s_.away(queries_[i]);
    std::vector<std::uint32_t> clusters = my_clusters();
    std::size_t sorted = 0;
    while (each.reach == kInfinity && sorted < clusters.size()) {
      s_.interrupt_.poll(calling_thread);
      const auto next =
          std::min_element(clusters.begin() + static_cast<std::ptrdiff_t>(sorted), clusters.end(),
                           [&](std::uint32_t a, std::uint32_t b) { return away[a] < away[b]; });
      std::swap(*next, clusters[sorted]);
      const std::uint32_t cluster = clusters[sorted++];
      each.seeded.push_back(cluster);
      for (std::size_t c = cascade_.starts[cluster]; c < cascade_.starts[cluster + 1]; ++c) {
        take_all(cascade_.chunks[c], i);
        if (each.gave_up) return;
      }
      if (each.pool.size() >= s_.request_.k) thin(each, i);
    }
  }

  void take_all(const Chunk& chunk, std::size_t i) {
    for (std::uint32_t place = chunk.first; place < chunk.first + chunk.count; ++place)
      take(chunk, place, i);
    count_hits(each_[i], chunk.count);
  }

  // Clusters from near to far, as seen by the block; rows whose codes are odd come last.
  std::vector<std::uint32_t> visiting_order() {
    std::vector<double> sum(cascade_.clusters);
    for (std::size_t i = 0; i < count_; ++i)
      for (std::size_t c = 0; c < cascade_.clusters; ++c) sum[c] += s_.away(queries_[i])[c];
    std::vector<std::uint32_t> order = my_clusters();
    std::sort(order.begin(), order.end(),
              [&](std::uint32_t a, std::uint32_t b) { return sum[a] < sum[b]; });
    const auto odd = static_cast<std::uint32_t>(cascade_.clusters);
    if (mine(odd)) order.push_back(odd);
    return order;
  }

  void pass_chunk(const Chunk& chunk) {
    active_.clear();
    pointers_.clear();
    thresholds_.clear();
    for (std::size_t i = 0; i < count_; ++i) {
      Each& each = each_[i];
      if (each.gave_up) continue;
      const CodedQuery& coded = s_.coded_[queries_[i]];
      if (s_.least(queries_[i], chunk) > each.reach) continue;
      if (std::find(each.seeded.begin(), each.seeded.end(), chunk.cluster) != each.seeded.end())
        continue;
      const double limit = s_.limit(queries_[i], chunk, each.reach);
      if (!(limit <= kLargestThreshold)) {
        take_all(chunk, i);
        continue;
      }
      active_.push_back(static_cast<std::uint32_t>(i));
      pointers_.push_back(&s_.codes_[queries_[i] * cascade_.depth]);
      thresholds_.push_back(
          static_cast<std::int32_t>(std::floor((static_cast<double>(coded.square) - limit) / 2)));
      // The codes of queries carry an offset, whose part of the product init takes away.
    }
    if (active_.empty()) return;
    const CodeScanArgs args{&cascade_.panels[chunk.first * cascade_.depth],
                            &cascade_.init[chunk.first],
                            chunk.count,
                            cascade_.depth,
                            pointers_.data(),
                            thresholds_.data(),
                            active_.size(),
                            hits_.data()};
    const std::size_t found = s_.kernels_.scan_codes(args);
    stats.pairs_coded += active_.size() * chunk.count;
    stats.code_hits += found;
    for (std::size_t h = 0; h < found; ++h) {
      const std::size_t i = active_[hits_[h].query];
      if (cascade_.code_depth > 0 && h + kAhead < found)
        prefetch_codes(chunk.first + hits_[h + kAhead].row);
      take(chunk, chunk.first + hits_[h].row, i);
      count_hits(each_[i], 1);
    }
  }

  // A query that most rows pass is better off with the plain search.
  void count_hits(Each& each, std::size_t hits) {
    each.hits += hits;
    if (each.hits > most_hits_) each.gave_up = true;
  }

  // A row that passed the projection: bound its distance by its own codes, or find it.
  void take(const Chunk& chunk, std::uint32_t place, std::size_t i) {
    Each& each = each_[i];
    const std::uint32_t row = cascade_.rows[place];
    if (row >= cascade_.n || each.gave_up) return;  // padding
    Candidate c{0, 0, std::numeric_limits<double>::quiet_NaN(), s_.segment_.id(row), row};
    if (cascade_.code_depth > 0) {
      ++stats.rows_coded;
      s_.bound(queries_[i], chunk, place, &c.low, &c.high);
      if (c.low > each.reach) return;
    }
    if (s_.segment_.dead(row, s_.request_.version)) return;
    if (s_.exclusions_.excludes(s_.first_ + queries_[i], c.id)) return;
    if (cascade_.code_depth == 0) {
      place_exactly(i, c);
      if (!(c.low <= each.reach) || c.key == kInfinity) return;
    }
    each.pool.push_back(c);
    if (each.pool.size() >= each.next) thin(each, i);
  }

  void place_exactly(std::size_t i, Candidate& c) {
    c.key = key(i, c.row);
    const double distance = std::sqrt(c.key);
    c.low = distance * (1 - s_.theta_);
    c.high = distance * (1 + s_.theta_);
  }

  // The reach from the k-th smallest upper end; drops what lies beyond it. Where bounds are too
  // wide for that (ties, duplicates), canonical keys decide.
  void thin(Each& each, std::size_t i) {
    const std::size_t k = s_.request_.k;
    ++stats.thinnings;
    tighten(each, k);
    each.next =
        std::min(capacity_, std::max(k, each.pool.size()) + std::max<std::size_t>(8, k / 8));
    if (each.pool.size() <= k || 4 * (capacity_ - each.pool.size()) >= capacity_ - k) return;
    ++stats.exact_thinnings;
    for (Candidate& c : each.pool)
      if (std::isnan(c.key)) place_exactly(i, c);
    tighten(each, k);
    if (each.pool.size() <= k) return;
    each.next = capacity_;
    const auto kth = each.pool.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(each.pool.begin(), kth - 1, each.pool.end(),
                     [&](const Candidate& a, const Candidate& b) {
                       return a.key != b.key ? a.key < b.key : a.id < b.id;
                     });
    each.pool.erase(kth, each.pool.end());
  }

  void tighten(Each& each, std::size_t k) {
    if (each.pool.size() < k) return;
    ends_.clear();
    for (const Candidate& c : each.pool) ends_.push_back(c.high);
    const auto kth = ends_.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(ends_.begin(), kth, ends_.end());
    // A row whose canonical key ties with the k-th may be as far as that and its own rounding.
    each.reach = std::min(each.reach, *kth * (1 + 2 * s_.theta_));
    each.pool.erase(std::remove_if(each.pool.begin(), each.pool.end(),
                                   [&](const Candidate& c) { return c.low > each.reach; }),
                    each.pool.end());
  }

  CascadeSearch& s_;
  const Cascade& cascade_;
  const std::uint32_t* queries_;
  const std::size_t count_;
  const std::uint32_t part_;
  const std::size_t parts_, capacity_, most_hits_;
  std::vector<Each> each_;
  std::vector<std::uint32_t> active_;
  std::vector<const std::uint8_t*> pointers_;
  std::vector<std::int32_t> thresholds_;
  std::vector<CodeHit> hits_;
  std::vector<double> ends_;
  std::vector<float> scratch_;
};

// Every row by every stage.
void CascadeSearch::lay_open(const CascadeBounds& bounds) const {
  for (std::size_t i = 0; i < count_; ++i)
    for (const Chunk& chunk : cascade_.chunks)
      for (std::size_t place = chunk.first; place < chunk.first + chunk.count; ++place) {
        if (cascade_.rows[place] == kNoRow) continue;
        const std::size_t at = i * cascade_.n + cascade_.rows[place];
        double square = 0;
        for (std::size_t p = 0; p < cascade_.projection.coordinates(); ++p) {
          const int apart = cascade_.panels[in_panels(place, p, cascade_.depth)] + kQueryOffset -
                            static_cast<int>(codes_[i * cascade_.depth + p]);
          square += apart * apart;
        }
        bounds.by_cluster[at] = least(i, chunk);
        bounds.by_projection[at] =
            (std::sqrt(square) - std::sqrt(limit(i, chunk, 0))) / cascade_.scale;
        if (cascade_.code_depth > 0) bound(i, chunk, place, &bounds.low[at], &bounds.high[at]);
      }
}

void CascadeSearch::search(std::vector<std::vector<Neighbour>>& found,
                           std::vector<std::uint8_t>& deferred) {
  // Blocks of queries, and where those are too few for the threads, parts of the clusters.
  const std::size_t threads = request_.threads;
  const std::size_t per_block =
      std::clamp<std::size_t>((count_ + 2 * threads - 1) / (2 * threads), 1, kBlockQueries);
  const std::size_t blocks = (count_ + per_block - 1) / per_block;
  const std::size_t parts = blocks < 2 * threads ? threads : 1;
  std::vector<std::vector<Neighbour>> fresh(count_);
  parallel_for(blocks * parts, threads, interrupt_, [&](std::size_t task, bool calling_thread) {
    const std::size_t begin = task / parts * per_block, end = std::min(count_, begin + per_block);
    Pass pass(*this, &order_[begin], end - begin, task % parts, parts, found);
    pass.run(calling_thread);
    std::vector<std::vector<Neighbour>> here(end - begin);
    for (std::size_t i = 0; i < here.size(); ++i)
      if (!pass.gave_up(i)) pass.finish(i, here[i]);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t i = 0; i < here.size(); ++i) {
      const std::uint32_t q = order_[begin + i];
      if (pass.gave_up(i)) deferred[first_ + q] = 1;
      fresh[q].insert(fresh[q].end(), here[i].begin(), here[i].end());
    }
    stats.add(pass.stats);
  });
  for (std::size_t i = 0; i < count_; ++i) {
    std::vector<Neighbour>& all = found[i];
    all.insert(all.end(), fresh[i].begin(), fresh[i].end());
    keep_nearest(all, request_.k);
  }
}

}  // namespace

std::size_t cascade_queries(const SearchRequest& request, const Cascade& cascade) {
  const std::size_t each = cascade.depth + 2 * cascade.code_depth + 8 * cascade.clusters +
                           4 * cascade.depth + 24 * request.k + sizeof(CodedQuery);
  return std::clamp<std::size_t>(kQueryBytes / each, 16, 1 << 16);
}

void cascade_bounds(const SearchRequest& request, const Cascade& cascade,
                    const KernelTable& kernels, const CascadeBounds& bounds) {
  const Exclusions exclusions(request);
  Interrupt interrupt;
  CascadeSearch search(request, cascade, request.segments.at(0), 0, kernels, exclusions, 0,
                       request.q, interrupt);
  search.prepare();
  search.lay_open(bounds);
}

void cascade_search(const SearchRequest& request, const Cascade& cascade, const Segment& segment,
                    std::size_t start, const KernelTable& kernels, const Exclusions& exclusions,
                    std::size_t first, std::size_t count,
                    std::vector<std::vector<Neighbour>>& found, std::vector<std::uint8_t>& deferred,
                    SearchStats& stats, Interrupt& interrupt) {
  CascadeSearch search(request, cascade, segment, start, kernels, exclusions, first, count,
                       interrupt);
  search.prepare();
  search.search(found, deferred);
  stats.add(search.stats);
}

}  // namespace resmem
