#include "flat_search.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "../base/platform.h"
#include "../rows/row_set.h"
#include "bounds/filter_bounds.h"
#include "canonical.h"
#include "kth_largest.h"
#include "scanner.h"
#include "visibility.h"

namespace resmem {
namespace {

// The memory that all threads' scanners together may hold. It is half of the 64 MiB promised, as
// staging and rounding to panels come on top. Results and stored rows are not counted.
constexpr std::size_t kScannerBytes = std::size_t{32} << 20;

// Up to this many queries, one pass over the raw rows per query beats staging and packing them: a
// query of a stream costs about 1 cycle for every 8 values of a row, and a panel of 16 queries with
// the staging costs 16.
constexpr std::size_t kStreamQueries = 8;

// Threads take queries of their own past all rows, or split the rows. If the rows are split, they
// are staged once and not once per thread; staging is as dear as 5 queries of a panel, and bound by
// memory. If the queries are split, their thresholds are found once and not once per thread, and a
// thread holds fewer panels, which should stay in the last cache that it can count on.
bool worth_splitting_queries(const SearchRequest& request, std::size_t threads) {
  if (request.q < 128 * threads) return false;
  const std::size_t panel_bytes = sizeof(float) * request.q * request.d;
  return panel_bytes > (std::size_t{2} << 20) || request.q >= 2048 || threads > 8;
}

// Returns the bytes of level-2 cache that blocks are cut for. Where the cache is not known, these
// are the least that any CPU has.
std::size_t level2_bytes() {
  static const std::size_t bytes =
      std::clamp(level2_cache_bytes(), std::size_t{256} << 10, std::size_t{2} << 20);
  return bytes;
}

struct Plan {
  Strategy strategy = Strategy::automatic;
  FilterKind filter = FilterKind::dot;
  ScanPlan scan;
  std::size_t queries_per_task = 1;
};

double largest_value(const SearchRequest& request) {
  double largest = request.queries_max_abs;
  for (const Segment& segment : request.segments) largest = std::max(largest, segment.max_abs);
  return largest;
}

// Tells whether squares of unscaled numbers stay normal float32 numbers.
bool unscaled_squares_are_safe(const SearchRequest& request) {
  const double largest = largest_value(request);
  return largest >= 0x1p-40 && largest <= 0x1p40;
}

Plan make_plan(const SearchRequest& request, const RowSet& rows, const Execution& execution) {
  const KernelTable& kernels = execution.kernels;
  const Blocks& blocks = request.forced.blocks;
  Plan plan;
  // A buffer has room for more than k candidates. More room makes thresholds stale, less makes
  // thinning frequent. From k/2 to 2k it made no difference at k = 50 to 100.
  const std::size_t room = std::max<std::size_t>(64, request.k);
  const std::size_t buffer =
      request.k + (blocks.buffer > request.k ? blocks.buffer - request.k : room);
  plan.scan.capacity = std::min(buffer, std::max(rows.size(), request.k + 1));

  plan.strategy = request.forced.strategy;
  const bool may_stream =
      is_euclidean(request.metric) && request.forced.filter != FilterKind::dot && !request.wide();
  if (!bounds_hold_at(request.d) ||
      (request.wide() && !bounds_hold_for_wide(largest_value(request)))) {
    plan.strategy = Strategy::exact;
  } else if (plan.strategy == Strategy::stream && !may_stream) {
    throw std::invalid_argument(
        "strategy 'stream' serves the Euclidean metrics, float32 queries and the difference filter "
        "only");
  } else if (plan.strategy == Strategy::automatic) {
    if (rows.size() <= plan.scan.capacity)
      plan.strategy = Strategy::exact;  // every row would be a candidate
    else if (may_stream && request.q <= kStreamQueries && unscaled_squares_are_safe(request))
      plan.strategy = Strategy::stream;
    else if (worth_splitting_queries(request, execution.threads))
      plan.strategy = Strategy::by_queries;
    else
      plan.strategy = Strategy::by_rows;
  }

  plan.scan.stream = plan.strategy == Strategy::stream;
  plan.filter = plan.scan.stream ? FilterKind::difference : request.forced.filter;
  if (plan.filter == FilterKind::automatic) plan.filter = FilterKind::dot;
  if (plan.filter == FilterKind::difference && !is_euclidean(request.metric))
    throw std::invalid_argument("the difference filter serves the Euclidean metrics only");

  // A block of mc rows fills half of the level-2 cache when staged, and panels stream through the
  // rest.
  const std::size_t row_bytes = sizeof(float) * (request.d + 16);
  std::size_t mc = std::min<std::size_t>(level2_bytes() / 2 / row_bytes, 1024);
  if (plan.scan.stream) mc = std::max<std::size_t>(mc, 64);
  if (blocks.rows > 0) mc = blocks.rows;
  plan.scan.block_rows = std::clamp<std::size_t>(mc / kernels.row_step * kernels.row_step,
                                                 kernels.row_step, std::size_t{1} << 20);
  const std::size_t kc = blocks.depth > 0 ? blocks.depth : 2048;
  plan.scan.depth_block = std::max(kDepthStep, kc / kDepthStep * kDepthStep);

  // The queries of a task stay within the budget. There is at least one task per thread, and up to
  // four when each still has queries enough to be worth the staging.
  const std::size_t query_bytes =
      sizeof(float) * (request.d + 8) + sizeof(Candidate) * plan.scan.capacity;
  std::size_t most = std::max<std::size_t>(1, kScannerBytes / execution.threads / query_bytes);
  if (plan.strategy == Strategy::by_queries) {
    const auto share = [&](std::size_t tasks) { return (request.q + tasks - 1) / tasks; };
    most = std::min(most, std::max(share(4 * execution.threads),
                                   std::min<std::size_t>(512, share(execution.threads))));
  }
  plan.queries_per_task = blocks.queries > 0 ? blocks.queries : most;
  return plan;
}

// Returns the name that statistics and the argument `filter` use.
const char* filter_name(FilterKind filter) {
  switch (filter) {
    case FilterKind::automatic:
    case FilterKind::dot:
      break;
    case FilterKind::difference:
      return "difference";
  }
  return "dot";
}

class Search {
 public:
  Search(const SearchRequest& request, const Execution& execution, const SearchOutput& output)
      : request_(request),
        execution_(execution),
        kernels_(execution.kernels),
        rows_(request.segments, request.d),
        visibility_(request),
        plan_(make_plan(request, rows_, execution)),
        output_(output) {}

  SearchStats run() {
    static const char* const names[] = {"automatic", "by_queries", "by_rows", "stream", "exact"};
    stats_.isa = kernels_.name;
    stats_.strategy = names[static_cast<int>(plan_.strategy)];
    std::vector<std::size_t> queries(request_.q);
    std::iota(queries.begin(), queries.end(), std::size_t{0});
    if (plan_.strategy == Strategy::exact) {
      stats_.filter = "none";
      search_exactly(queries);
      return stats_;
    }
    stats_.filter = filter_name(plan_.filter);
    search_exactly(take_unscalable(queries));
    if (!queries.empty()) filter(queries, plan_.filter);
    if (!deferred_.empty()) {
      std::sort(deferred_.begin(), deferred_.end());
      queries.swap(deferred_);
      filter(queries, FilterKind::difference);
    }
    return stats_;
  }

 private:
  void filter(const std::vector<std::size_t>& queries, FilterKind kind) {
    const auto bounds = make_filter_bounds(request_, kind, plan_.scan.stream, kernels_);
    if (plan_.strategy == Strategy::by_queries)
      filter_by_queries(queries, *bounds);
    else
      filter_by_rows(queries, *bounds);
  }

  // Serves many queries: each task takes a block of them past all rows (5th loop).
  void filter_by_queries(const std::vector<std::size_t>& queries, const FilterBounds& bounds) {
    const std::size_t per_task = plan_.queries_per_task;
    const std::size_t tasks = (queries.size() + per_task - 1) / per_task;
    // Tasks share whole panels evenly, as a short last task would stage all rows for a few queries.
    const std::size_t panel = std::min<std::size_t>(kernels_.query_lanes, per_task);
    const std::size_t panels = (queries.size() + panel - 1) / panel;
    parallel_for(tasks, execution_.threads, execution_.interrupt,
                 [&](std::size_t task, bool calling_thread) {
                   Scanner scanner(request_, rows_, visibility_, kernels_, bounds, plan_.scan);
                   const std::size_t first = panels * task / tasks * panel;
                   const std::size_t last =
                       std::min(queries.size(), panels * (task + 1) / tasks * panel);
                   const std::size_t count = last - first;
                   scanner.begin(queries.data() + first, count);
                   scanner.scan(0, rows_.size(), execution_.interrupt, calling_thread);
                   for (std::size_t i = 0; i < count; ++i)
                     finish(queries[first + i], i, {&scanner.selection()}, bounds);
                   add(scanner.stats());
                 });
  }

  // Serves few queries: the threads take turns at chunks of rows, each with thresholds of its own,
  // and what they kept is merged.
  void filter_by_rows(const std::vector<std::size_t>& queries, const FilterBounds& bounds) {
    const std::size_t block = plan_.scan.block_rows, total = rows_.size();
    const std::size_t blocks = (total + block - 1) / block;
    const std::size_t chunk = std::max<std::size_t>(1, blocks / (16 * execution_.threads)) * block;
    const std::size_t chunks = (total + chunk - 1) / chunk;
    const std::size_t slots = std::min(execution_.threads, chunks);
    std::vector<std::unique_ptr<Scanner>> scanners(slots);
    for (std::size_t first = 0; first < queries.size(); first += plan_.queries_per_task) {
      const std::size_t count = std::min(plan_.queries_per_task, queries.size() - first);
      std::atomic<std::size_t> next{0};
      parallel_for(slots, slots, execution_.interrupt, [&](std::size_t slot, bool calling_thread) {
        auto& scanner = scanners[slot];
        if (!scanner)
          scanner =
              std::make_unique<Scanner>(request_, rows_, visibility_, kernels_, bounds, plan_.scan);
        scanner->begin(queries.data() + first, count);
        for (std::size_t c = next++; c < chunks; c = next++)
          scanner->scan(c * chunk, std::min(total, (c + 1) * chunk), execution_.interrupt,
                        calling_thread);
      });
      std::vector<const Selection*> parts;
      for (const auto& scanner : scanners) parts.push_back(&scanner->selection());
      parallel_for(count, execution_.threads, execution_.interrupt,
                   [&](std::size_t i, bool) { finish(queries[first + i], i, parts, bounds); });
    }
    for (const auto& scanner : scanners) add(scanner->stats());
  }

  // Certifies and rescores one query: finds the last threshold over all parts' candidates, and then
  // the canonical keys of the candidates that reach it.
  void finish(std::size_t query, std::size_t local, const std::vector<const Selection*>& parts,
              const FilterBounds& bounds) {
    std::vector<float> lows;
    for (const Selection* part : parts) {
      if (part->deferred(local)) {
        const std::lock_guard<std::mutex> lock(mutex_);
        deferred_.push_back(query);
        return;
      }
      const Candidate* c = part->candidates(local);
      for (std::size_t j = 0; j < part->candidate_count(local); ++j) lows.push_back(c[j].low);
    }
    float threshold = -std::numeric_limits<float>::infinity();
    if (lows.size() > request_.k) {
      const float kth = kth_largest(lows.data(), lows.size(), request_.k);
      threshold = bounds.threshold(kth, parts[0]->staged(local));
    }
    constexpr std::size_t kAhead = 2;  // rows on their way while one is rescored
    const CanonicalKey key(request_, kernels_, query);
    RowReader reader(rows_, kernels_);
    std::vector<Neighbour> found;
    found.reserve(request_.k + 16);
    for (const Selection* part : parts) {
      const Candidate* c = part->candidates(local);
      for (std::size_t j = 0; j < part->candidate_count(local); ++j)
        if (c[j].high >= threshold) found.push_back({0, rows_.id(c[j].position), c[j].position});
    }
    for (std::size_t j = 0; j < found.size(); ++j) {
      if (j + kAhead < found.size()) reader.prefetch(found[j + kAhead].position);
      found[j].key = key.at(reader, found[j].position);
    }
    rescored_ += found.size();
    output_.write(request_, query, found);
  }

  // Finds the canonical keys of every row, without a filter.
  void search_exactly(const std::vector<std::size_t>& queries) {
    parallel_for(
        queries.size(), execution_.threads, execution_.interrupt, [&](std::size_t i, bool calling) {
          const std::size_t query = queries[i];
          const CanonicalKey key(request_, kernels_, query);
          RowReader reader(rows_, kernels_);
          std::vector<Neighbour> found;
          std::uint64_t scored = 0;
          const std::size_t most = 4 * request_.k + 4096;  // held at once
          for (std::size_t s = 0; s < request_.segments.size(); ++s) {
            const Segment& segment = request_.segments[s];
            for (std::size_t r = 0; r < segment.n; ++r) {
              if (r % 1024 == 0) execution_.interrupt.poll(calling);
              if (!visibility_.sees(query, segment, r)) continue;
              found.push_back({key.at(reader, segment, r), segment.id(r), rows_.start(s) + r});
              ++scored;
              if (found.size() >= most) keep_nearest(found, request_.k);
            }
          }
          rescored_ += scored;
          output_.write(request_, query, found);
        });
    stats_.rescored = rescored_;
  }

  // Takes out float64 queries so small that their products may underflow beside any scale.
  std::vector<std::size_t> take_unscalable(std::vector<std::size_t>& queries) const {
    std::vector<std::size_t> taken;
    if (!request_.wide() || request_.metric != Metric::inner_product) return taken;
    const auto scalable = [&](std::size_t i) {
      const double largest =
          kernels_.filter.max_abs64(request_.queries64 + i * request_.d, request_.d);
      return largest == 0 || bounds_hold_for_wide(largest);
    };
    const auto end = std::stable_partition(queries.begin(), queries.end(), scalable);
    taken.assign(end, queries.end());
    queries.erase(end, queries.end());
    return taken;
  }

  void add(const SearchStats& part) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.add(part);
    stats_.rescored = rescored_ += part.rescored;
  }

  const SearchRequest& request_;
  const Execution& execution_;
  const KernelTable& kernels_;
  const RowSet rows_;
  const Visibility visibility_;
  const Plan plan_;
  const SearchOutput output_;

  std::mutex mutex_;
  std::vector<std::size_t> deferred_;
  std::atomic<std::uint64_t> rescored_{0};
  SearchStats stats_;
};

}  // namespace

void SearchOutput::write(const SearchRequest& request, std::size_t query,
                         std::vector<Neighbour>& neighbours) const {
  if (found != nullptr) {
    keep_nearest(neighbours, request.k);
    (*found)[query] = neighbours;
    return;
  }
  const std::size_t at = query * request.k;
  write_neighbours(neighbours, request.metric, request.k, values + at,
                   ids == nullptr ? nullptr : ids + at,
                   positions == nullptr ? nullptr : positions + at);
}

SearchStats flat_search(const SearchRequest& request, const Execution& execution,
                        const SearchOutput& output) {
  if (request.q == 0 || request.k == 0) return {};
  return Search(request, execution, output).run();
}

void filter_brackets(const SearchRequest& request, const KernelTable& kernels, double* low,
                     double* high) {
  const auto bounds = make_filter_bounds(request, request.forced.filter, false, kernels);
  const Segment& segment = request.segments.at(0);
  const std::size_t depth = (request.d + kDepthStep - 1) / kDepthStep * kDepthStep;
  const std::size_t padded = (segment.n + kernels.row_step) / kernels.row_step * kernels.row_step;
  const std::size_t lanes = kernels.query_lanes;
  std::vector<float> staged(padded * depth), init(padded), spread(padded), query(request.d);
  std::vector<float> partial(padded * lanes), panel(lanes * depth);
  std::vector<float> thresholds(lanes, std::numeric_limits<float>::infinity());
  thresholds[0] = -std::numeric_limits<float>::infinity();
  std::vector<Hit> hits(padded * lanes);
  const RowSet rows(request.segments, request.d);
  RowReader reader(rows, kernels);
  bounds->stage_rows(reader, segment, 0, segment.n,
                     {staged.data(), depth, init.data(), spread.data()});
  const std::size_t kc = request.forced.blocks.depth > 0 ? request.forced.blocks.depth : depth;
  const ScanArgs args{panel.data(),   staged.data(), depth, init.data(),
                      segment.n,      depth,         kc,    thresholds.data(),
                      partial.data(), hits.data()};
  for (std::size_t q = 0; q < request.q; ++q) {
    const StagedQuery facts = bounds->stage_query(request, q, query.data());
    for (std::size_t p = 0; p < request.d; ++p) panel[p * lanes] = query[p];
    const std::size_t found = bounds->kernel(kernels)(args);
    for (std::size_t h = 0; h < found; ++h) {
      const std::size_t row = hits[h].where / kMaxQueryLanes;
      bounds->key_bracket(hits[h].score, spread[row], facts, low + q * segment.n + row,
                          high + q * segment.n + row);
    }
  }
}

}  // namespace resmem
