// One thread's filter pass: a block of queries against ranges of rows.
//
// It owns the staged block of rows, the packed panels of queries, their thresholds and their
// candidates, and runs the 4th and 3rd loops around the micro-tile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../base/threads.h"
#include "../kernels/table.h"
#include "../rows/row_set.h"
#include "bounds/filter_bounds.h"
#include "exclusions.h"
#include "request.h"

namespace resmem {

// A row that may be among the k nearest: its score bracket (slack left out) and position.
struct Candidate {
  float high, low;
  std::size_t position;
};

// The tiles' block sizes and the room per query, decided by the planner.
struct ScanPlan {
  std::size_t block_rows = 0;   // mc
  std::size_t depth_block = 0;  // kc
  std::size_t capacity = 0;     // candidates per query
  bool stream = false;          // raw rows, one query at a time, instead of tiles
};

class Scanner {
 public:
  Scanner(const SearchRequest& request, const RowSet& rows, const Exclusions& exclusions,
          const KernelTable& kernels, const FilterBounds& bounds, const ScanPlan& plan);

  // Takes up a block of queries, given by number.
  void begin(const std::size_t* queries, std::size_t count);
  // Filters rows [first, last); positions must come in ascending order between begin()s.
  void scan(std::size_t first, std::size_t last, Interrupt& interrupt, bool calling_thread);

  // Candidates of the local query i, after the last scan.
  const Candidate* candidates(std::size_t i) const { return pool_.data() + i * plan_.capacity; }
  std::size_t candidate_count(std::size_t i) const { return count_[i]; }
  const StagedQuery& staged(std::size_t i) const { return staged_queries_[i]; }
  // The bounds could not separate this query's candidates: it needs the difference filter.
  bool deferred(std::size_t i) const { return deferred_[i] != 0; }

  SearchStats stats;

 private:
  void scan_tiles(std::size_t segment, std::size_t first, std::size_t last, Interrupt& interrupt,
                  bool calling_thread);
  void scan_stream(std::size_t segment, std::size_t first, std::size_t last, Interrupt& interrupt,
                   bool calling_thread);
  std::size_t next_block(std::size_t left);
  void tighten();
  std::size_t rows_at_once(const Segment& segment, std::size_t count) const;
  void take_hits(std::size_t found, std::size_t first_query, std::size_t segment,
                 std::size_t first_row);
  void push(std::size_t query, const Candidate& candidate);
  void thin(std::size_t query);
  void thin_exactly(std::size_t query, const KeyScores& scores);

  const SearchRequest& request_;
  const RowSet& rows_;
  const Exclusions& exclusions_;
  const KernelTable& kernels_;
  const FilterBounds& bounds_;
  const ScanPlan plan_;
  std::size_t depth_, ld_;
  RowReader reader_;

  const std::size_t* queries_ = nullptr;
  std::size_t query_count_ = 0;
  std::vector<StagedQuery> staged_queries_;
  std::vector<float> thresholds_;  // whole panels
  std::vector<std::uint8_t> deferred_;
  std::vector<std::size_t> count_;
  std::vector<Candidate> pool_;
  std::size_t seen_rows_ = 0;  // since begin()

  std::vector<float> panels_, staged_rows_, init_, spread_, partial_;
  std::vector<Hit> hits_;
  std::vector<float> scratch_;
};

}  // namespace resmem
