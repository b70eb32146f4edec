// One thread's pass: a block of queries against the clusters of a cascade, or a part of them.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "../../base/threads.h"
#include "../../flat/canonical.h"
#include "coded_queries.h"

namespace resmem {

inline constexpr std::size_t kBlockQueries = 256;  // their codes, and a chunk's, stay in level 2

class CascadePass {
 public:
  // Queries of a block, so that what is held of each stays within a few megabytes.
  static std::size_t most_queries(std::size_t k) {
    constexpr std::size_t kBytes = std::size_t{8} << 20, kLeast = 8;
    return std::clamp(kBytes / (k * (2 * sizeof(Candidate) + sizeof(double))), kLeast,
                      kBlockQueries);
  }
  CascadePass(const Cascade& cascade, const IndexScope& scope, const CodedQueries& queries,
              Interrupt& interrupt);

  // Takes up a block of queries, given by number, and one of so many parts of the clusters.
  // `found` holds neighbours found elsewhere: they count towards the k.
  void begin(const std::uint32_t* queries, std::size_t count, std::size_t part, std::size_t parts,
             const std::vector<std::vector<Neighbour>>& found);
  void run(bool calling_thread);

  // After run(), of the block's query i: too many of its rows passed; or what may be among the k
  // nearest, with canonical keys.
  bool gave_up(std::size_t i) const { return each_[i].gave_up; }
  void finish(std::size_t i, std::vector<Neighbour>& found);

  SearchStats stats;

 private:
  // A row that may be among the k nearest: its distance lies in [low, high].
  struct Candidate {
    double low, high;
    double key;  // canonical, or NaN while it is not known
    std::int64_t id;
    std::uint32_t row;  // kNoRow: it was found elsewhere
  };
  struct Each {
    std::size_t hits;
    bool gave_up;
    bool goes_on;  // however many rows pass
    bool met_odd;  // has visited the rows whose codes are odd
    std::vector<Candidate> pool;
    std::vector<double> ends;          // a heap of the k smallest upper ends
    std::vector<std::uint32_t> seeds;  // places taken by seed(), ascending
  };
  struct Pair {
    std::uint32_t place, query;  // of the block
  };
  struct Wanted {
    std::size_t query;  // of the block
    Candidate* candidate;
  };
  struct Scored {
    std::int32_t score;
    std::uint32_t place;
  };

  void seed(std::uint32_t i);
  void visit_odd();
  void find_mine(std::size_t part, std::size_t parts);
  void find_near(std::size_t i);
  void score(std::size_t i, std::uint32_t cluster);
  void take_seeds(std::uint32_t i);
  void visit_near();
  void settle();
  void visit_others();
  bool may_hold(std::uint32_t cluster, std::size_t i) const;
  void visit(std::uint32_t cluster);
  void scan(const Chunk& chunk);
  void pair_by_row(const Chunk& chunk, std::size_t found);

  void take_all(const Chunk& chunk, std::uint32_t i);
  void take_pairs();
  void weigh_pairs();
  void keep(std::size_t i, const Candidate& candidate);
  void tighten(std::size_t i, double kth);
  void thin(std::size_t i);
  void drop_far(std::size_t i);
  void rebuild_ends(std::size_t i);
  void count_hits(std::size_t i, std::size_t hits);

  void poll() { interrupt_.poll(calling_thread_); }
  double& away(std::uint32_t cluster, std::size_t i) { return away_[cluster * count_ + i]; }
  const KeyDistance& keys(std::size_t i) const { return coded_[queries_[i]].keys; }
  bool visible(std::size_t i, std::uint32_t row, std::int64_t id) const;
  void want_key(std::size_t i, Candidate& candidate);
  void sort_wanted();
  void find_keys();
  void prefetch(std::uint32_t place) const;

  const IndexScope& scope_;
  const CodedQueries& coded_;
  const Cascade& cascade_;
  Interrupt& interrupt_;
  bool calling_thread_ = false;
  const std::size_t k_, capacity_, most_hits_;

  const std::uint32_t* queries_ = nullptr;
  std::size_t count_ = 0;
  std::vector<std::uint32_t> mine_;  // clusters of the part, from near to far
  bool odd_is_mine_ = false;         // the last one, of rows whose codes are odd
  std::size_t going_on_ = 0;
  // Of each query of the block:
  std::vector<double> reach_;  // no row farther than this is among the k nearest; -inf: gave up
  std::vector<double> slack_, error_, square_;
  std::vector<Each> each_;
  std::vector<double> away_;         // (clusters, count): of centres, infinite once visited
  std::vector<std::uint32_t> near_;  // (count, near_count_): nearest clusters, in order
  std::size_t near_count_ = 0;

  std::vector<std::uint32_t> order_, who_, active_;
  std::vector<const std::uint8_t*> pointers_;
  std::vector<std::int32_t> thresholds_;
  std::vector<CodeHit> hits_;
  std::vector<Pair> pairs_;      // to be taken
  std::vector<double> squares_;  // of pairs_, by coded rows
  std::vector<Candidate> fresh_;
  std::vector<Wanted> wanted_;  // keys
  std::vector<std::int32_t> scores_;
  std::vector<Scored> scored_;
  std::vector<float> scratch_;
};

}  // namespace resmem
