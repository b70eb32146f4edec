#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>

#include "pass.h"

namespace resmem {
namespace {

constexpr std::size_t kQueryBytes = std::size_t{16} << 20;

// Orders queries by their nearest cluster, so that those of a block have rows in common.
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

// Keeps passes between tasks. A thread takes one that is idle, whose buffers are already large
// enough.
class Passes {
 public:
  Passes(const Cascade& cascade, const IndexScope& scope, const CodedQueries& queries)
      : cascade_(cascade), scope_(scope), queries_(queries) {}

  std::unique_ptr<CascadePass> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<CascadePass>(cascade_, scope_, queries_);
    auto pass = std::move(idle_.back());
    idle_.pop_back();
    return pass;
  }
  void give_back(std::unique_ptr<CascadePass> pass) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(pass));
  }
  void count(SearchStats& stats) const {
    for (const auto& pass : idle_) stats.add(pass->stats());
  }

 private:
  const Cascade& cascade_;
  const IndexScope& scope_;
  const CodedQueries& queries_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<CascadePass>> idle_;
};

}  // namespace

void Cascade::search(const IndexScope& scope, const IndexOutput& output) const {
  std::vector<std::vector<Neighbour>>& found = output.found;
  const CodedQueries queries(*this, scope);
  const auto order = by_nearest_cluster(queries, scope.count, clusters);
  // A task is a block of queries, and where there are too few blocks for the threads, one of
  // several parts of the clusters as well.
  const std::size_t threads = scope.execution.threads;
  const std::size_t per_block =
      std::clamp<std::size_t>((scope.count + 2 * threads - 1) / (2 * threads), 1,
                              CascadePass::most_queries(scope.request.k));
  const std::size_t blocks = (scope.count + per_block - 1) / per_block;
  const std::size_t parts = blocks < 2 * threads ? threads : 1;
  std::vector<std::vector<Neighbour>> fresh(scope.count * parts);
  std::vector<std::uint8_t> gave_up(scope.count * parts);
  Passes passes(*this, scope, queries);
  parallel_for(blocks * parts, threads, scope.execution.interrupt,
               [&](std::size_t task, bool calling_thread) {
                 const std::size_t begin = task / parts * per_block, part = task % parts;
                 const std::size_t count = std::min(scope.count - begin, per_block);
                 auto pass = passes.take();
                 pass->run(&order[begin], count, part, parts, found, calling_thread);
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
      if (gave_up[at] != 0) output.deferred[scope.first + i] = 1;
      found[i].insert(found[i].end(), fresh[at].begin(), fresh[at].end());
    }
    keep_nearest(found[i], scope.request.k);
  }
  passes.count(output.stats);
}

std::size_t Cascade::queries_together(const SearchRequest& request) const {
  const std::size_t each =
      depth + 2 * code_depth + 8 * clusters + 4 * depth + 24 * request.k + sizeof(CodedQuery);
  return std::clamp<std::size_t>(kQueryBytes / each, 16, 1 << 16);
}

}  // namespace resmem
