#include "cluster_scan.h"

#include <array>
#include <cmath>

namespace resmem {
namespace {

// A score of 16 bits holds whatever lies within a threshold of at most this (README.md, "Codes").
constexpr double kLargestThreshold = 65532;

}  // namespace

ClusterScan::ClusterScan(const Cascade& cascade, const KernelTable& kernels,
                         const CodedQueries& coded, const ThreadPoll& poll,
                         CascadeCandidates& candidates, CodedRowFilter& rows)
    : cascade_(cascade),
      kernels_(kernels),
      coded_(coded),
      poll_(poll),
      candidates_(candidates),
      rows_(rows),
      hits_(kChunkRows * kBlockQueries) {}

void ClusterScan::visit(const QueryBlock& block, std::uint32_t cluster,
                        const std::vector<std::uint32_t>& queries, const double* away) {
  for (std::size_t c = cascade_.starts[cluster]; c < cascade_.starts[cluster + 1]; ++c) {
    const Chunk& chunk = cascade_.chunks[c];
    poll_();
    choose(block, chunk, queries, away);
    if (!active_.empty()) scan(chunk);
  }
}

// Chooses the queries for which the chunk may have rows, and the thresholds that the codes of these
// rows must reach.
void ClusterScan::choose(const QueryBlock& block, const Chunk& chunk,
                         const std::vector<std::uint32_t>& queries, const double* away) {
  active_.clear();
  codes_.clear();
  thresholds_.clear();
  for (const std::uint32_t i : queries) {
    if (candidates_.gave_up(i)) continue;
    const double reach = candidates_.reach(i);
    if (away != nullptr && coded_.nearest_in_chunk(chunk, away[i], block.slack[i]) > reach)
      continue;
    const double most = coded_.largest_code_square(chunk, reach, block.error[i]);
    if (!(most <= kLargestThreshold)) {
      take_all(chunk, i);
      continue;
    }
    active_.push_back(i);
    codes_.push_back(coded_.codes(block.number(i)));
    // The codes of queries carry an offset, whose part of the product `init` takes away.
    thresholds_.push_back(static_cast<std::int32_t>(std::floor((block.square[i] - most) / 2)));
  }
}

void ClusterScan::take_all(const Chunk& chunk, std::uint32_t i) {
  pairs_.clear();
  for (std::uint32_t r = 0; r < chunk.count; ++r) pairs_.push_back({chunk.first + r, i});
  candidates_.count_passed(i, chunk.count);
  rows_.take(pairs_);
}

void ClusterScan::scan(const Chunk& chunk) {
  const CodeScanArgs args{&cascade_.panels[chunk.first * cascade_.depth],
                          &cascade_.init[chunk.first],
                          chunk.count,
                          cascade_.depth,
                          codes_.data(),
                          thresholds_.data(),
                          active_.size(),
                          hits_.data()};
  const std::size_t found = kernels_.codes.scan(args);
  pairs_coded += active_.size() * chunk.count;
  code_hits += found;
  pair_by_row(chunk, found);
  for (const Pair& pair : pairs_) candidates_.count_passed(pair.query, 1);
  rows_.take(pairs_);
}

// Orders the hits by row, so that a row that several queries hit is read from memory once, and rows
// are read in their order.
void ClusterScan::pair_by_row(const Chunk& chunk, std::size_t found) {
  std::array<std::uint32_t, kChunkRows + 1> next{};
  for (std::size_t h = 0; h < found; ++h) ++next[hits_[h].row + 1];
  for (std::uint32_t r = 0; r < kChunkRows; ++r) next[r + 1] += next[r];
  pairs_.resize(found);
  for (std::size_t h = 0; h < found; ++h)
    pairs_[next[hits_[h].row]++] = {chunk.first + hits_[h].row, active_[hits_[h].query]};
}

}  // namespace resmem
