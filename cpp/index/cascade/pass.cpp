#include "pass.h"

#include <cmath>

namespace resmem {

CascadePass::CascadePass(const Cascade& cascade, const IndexScope& scope, const CodedQueries& coded)
    : cascade_(cascade),
      coded_(coded),
      poll_{scope.execution.interrupt, false},
      schedule_(cascade, coded),
      keys_(scope, coded, poll_),
      candidates_(cascade, scope, coded, keys_),
      rows_(cascade, scope, coded, keys_, candidates_),
      scan_(cascade, scope.execution.kernels, coded, poll_, candidates_, rows_),
      seeds_(cascade, scope, coded, poll_, candidates_, rows_) {}

void CascadePass::run(const std::uint32_t* queries, std::size_t count, std::size_t part,
                      std::size_t parts, const std::vector<std::vector<Neighbour>>& found,
                      bool calling_thread) {
  poll_.calling_thread = calling_thread;
  block_.begin(coded_, queries, count);
  schedule_.begin(block_, part, parts);
  candidates_.begin(block_, found);
  rows_.begin(block_);
  visit_outliers(true);
  for (std::uint32_t i = 0; i < count; ++i) seeds_.find(block_, schedule_, i);
  visit_near();
  candidates_.settle();
  visit_others();
  visit_outliers(false);
}

SearchStats CascadePass::stats() const {
  SearchStats stats;
  stats.pairs_coded = scan_.pairs_coded + seeds_.pairs_coded;
  stats.code_hits = scan_.code_hits;
  stats.rows_coded = rows_.rows_coded;
  stats.thinnings = candidates_.thinnings;
  stats.exact_thinnings = candidates_.exact_thinnings;
  stats.rescored = keys_.found;
  return stats;
}

void CascadePass::visit(std::uint32_t cluster) {
  if (!visitors_.empty()) scan_.visit(block_, cluster, visitors_, schedule_.away(cluster));
}

// Tells whether the query's codes are cut off. Rounding alone would move them less.
bool CascadePass::lies_far_out(std::size_t i) const {
  const double rounded = std::sqrt(static_cast<double>(cascade_.projection.coordinates())) / 2;
  return (block_.error[i] - block_.slack[i]) * cascade_.scale > rounded;
}

// Outliers lie far out, and so do queries whose codes are cut off: these may find their neighbours
// among them, and no reach elsewhere, so they look there first. All others look there last.
void CascadePass::visit_outliers(bool far_out) {
  if (!schedule_.has_outliers()) return;
  visitors_.clear();
  for (std::uint32_t i = 0; i < block_.count(); ++i)
    if (lies_far_out(i) == far_out) visitors_.push_back(i);
  visit(schedule_.outliers());
}

// Visits every query's own nearest clusters, each of them once, with all queries that have it among
// theirs.
void CascadePass::visit_near() {
  for (const std::uint32_t cluster : schedule_.near_clusters()) {
    schedule_.near_queries(cluster, visitors_);
    visit(cluster);
    schedule_.visited(cluster, visitors_);
  }
}

// Visits all clusters that are left, from near to far, with the queries that may have rows in them.
void CascadePass::visit_others() {
  for (const std::uint32_t cluster : schedule_.clusters()) {
    poll_();
    visitors_.clear();
    const double* away = schedule_.away(cluster);
    const Chunk& whole = cascade_.whole[cluster];
    for (std::uint32_t i = 0; i < block_.count(); ++i)
      if (away[i] < std::numeric_limits<double>::infinity() &&
          coded_.nearest_in_chunk(whole, away[i], block_.slack[i]) <= candidates_.reach(i))
        visitors_.push_back(i);
    visit(cluster);
  }
}

}  // namespace resmem
