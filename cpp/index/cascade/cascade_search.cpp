#include "cascade_search.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>

#include "pass.h"

namespace resmem {
namespace {

constexpr std::size_t kQueryBytes = std::size_t{16} << 20;

// Queries by their nearest cluster, so that those of a block have rows in common.
std::vector<std::uint32_t> by_nearest_cluster(const CodedQueries& queries, std::size_t count,
                                              std::size_t clusters) {
  std::vector<std::uint32_t> nearest(count), order(count);
  for (std::size_t i = 0; i < count; ++i) {
    const double* away = queries.away(i);
    nearest[i] = static_cast<std::uint32_t>(std::min_element(away, away + clusters) - away);
  }
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return nearest[a] != nearest[b] ? nearest[a] < nearest[b] : a < b;
  });
  return order;
}

// Threads hand their pass on from task to task: its buffers are warm.
class Passes {
 public:
  Passes(const CascadeScope& scope, const CodedQueries& queries, Interrupt& interrupt)
      : scope_(scope), queries_(queries), interrupt_(interrupt) {}

  std::unique_ptr<CascadePass> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<CascadePass>(scope_, queries_, interrupt_);
    auto pass = std::move(idle_.back());
    idle_.pop_back();
    return pass;
  }
  void give_back(std::unique_ptr<CascadePass> pass) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(pass));
  }
  void count(SearchStats& stats) const {
    for (const auto& pass : idle_) stats.add(pass->stats);
  }

 private:
  const CascadeScope& scope_;
  const CodedQueries& queries_;
  Interrupt& interrupt_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<CascadePass>> idle_;
};

}  // namespace

void cascade_search(const CascadeScope& scope, std::vector<std::vector<Neighbour>>& found,
                    std::vector<std::uint8_t>& deferred, SearchStats& stats, Interrupt& interrupt) {
  const CodedQueries queries(scope, interrupt);
  const auto order = by_nearest_cluster(queries, scope.count, scope.cascade.clusters);
  // Blocks of queries, and where those are too few for the threads, parts of the clusters.
  const std::size_t threads = scope.request.threads;
  const std::size_t per_block =
      std::clamp<std::size_t>((scope.count + 2 * threads - 1) / (2 * threads), 1,
                              CascadePass::most_queries(scope.request.k));
  const std::size_t blocks = (scope.count + per_block - 1) / per_block;
  const std::size_t parts = blocks < 2 * threads ? threads : 1;
  std::vector<std::vector<Neighbour>> fresh(scope.count * parts);
  std::vector<std::uint8_t> gave_up(scope.count * parts);
  Passes passes(scope, queries, interrupt);
  parallel_for(blocks * parts, threads, interrupt, [&](std::size_t task, bool calling_thread) {
    const std::size_t begin = task / parts * per_block, part = task % parts;
    const std::size_t count = std::min(scope.count - begin, per_block);
    auto pass = passes.take();
    pass->begin(&order[begin], count, part, parts, found);
    pass->run(calling_thread);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = order[begin + i] * parts + part;
      if (pass->gave_up(i))
        gave_up[at] = 1;
      else
        pass->finish(i, fresh[at]);
    }
    passes.give_back(std::move(pass));
  });
  for (std::size_t i = 0; i < scope.count; ++i) {
    for (std::size_t at = i * parts; at < (i + 1) * parts; ++at) {
      if (gave_up[at] != 0) deferred[scope.first + i] = 1;
      found[i].insert(found[i].end(), fresh[at].begin(), fresh[at].end());
    }
    keep_nearest(found[i], scope.request.k);
  }
  passes.count(stats);
}

std::size_t cascade_queries(const SearchRequest& request, const Cascade& cascade) {
  const std::size_t each = cascade.depth + 2 * cascade.code_depth + 8 * cascade.clusters +
                           4 * cascade.depth + 24 * request.k + sizeof(CodedQuery);
  return std::clamp<std::size_t>(kQueryBytes / each, 16, 1 << 16);
}

// Every row by every stage.
void cascade_bounds(const CascadeScope& scope, const CascadeBounds& bounds) {
  Interrupt interrupt;
  const Cascade& cascade = scope.cascade;
  const CodedQueries queries(scope, interrupt);
  std::vector<float> scratch(scope.request.d);
  for (std::size_t i = 0; i < scope.count; ++i) {
    const CanonicalKey& key = queries.canonical(i);
    for (const Chunk& chunk : cascade.chunks)
      for (std::size_t place = chunk.first; place < chunk.first + chunk.count; ++place) {
        if (cascade.rows[place] == kNoRow) continue;
        const std::size_t at = i * cascade.n + cascade.rows[place];
        double square = 0;
        for (std::size_t p = 0; p < cascade.projection.coordinates(); ++p) {
          const int apart = cascade.panels[in_panels(place, p, cascade.depth)] + kQueryOffset -
                            static_cast<int>(queries.codes(i)[p]);
          square += apart * apart;
        }
        bounds.by_cluster[at] =
            chunk.cluster < cascade.clusters
                ? queries.least(chunk, queries.away(i)[chunk.cluster], queries[i].slack)
                : 0;
        bounds.by_projection[at] =
            (std::sqrt(square) - std::sqrt(queries.limit(chunk, 0, queries[i].error))) /
            cascade.scale;
        if (cascade.code_depth > 0) {
          double coded;
          queries.coded_squares(place, &i, 1, &coded);
          bounds.low[at] = queries.low(i, coded, queries.coded_error(i, place));
          bounds.high[at] = queries.high(i, coded, queries.coded_error(i, place));
        }
        const double found = key(scope.segment.keys.read(
            cascade.rows[place] * scope.request.d, scope.request.d, scratch.data(), scope.kernels));
        bounds.key_low[at] = queries[i].keys.low(found);
        bounds.key_high[at] = queries[i].keys.high(found);
      }
  }
}

}  // namespace resmem
