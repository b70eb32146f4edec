// A scanner is one thread's filter pass: it takes a block of queries past ranges of rows.
//
// It owns the staged block of rows and the packed panels of queries, runs the 4th and 3rd loops
// around the micro-tile, and hands the rows that reach their thresholds to a Selection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../base/threads.h"
#include "../kernels/table.h"
#include "../rows/row_set.h"
#include "bounds/filter_bounds.h"
#include "request.h"
#include "selection.h"
#include "visibility.h"

namespace resmem {

// The planner decides these: the block sizes of tiles, and the room per query.
struct ScanPlan {
  std::size_t block_rows = 0;   // mc
  std::size_t depth_block = 0;  // kc
  std::size_t capacity = 0;     // candidates per query
  bool stream = false;          // raw rows, one query at a time, instead of tiles
};

class Scanner {
 public:
  Scanner(const SearchRequest& request, const RowSet& rows, const Visibility& visibility,
          const KernelTable& kernels, const FilterBounds& bounds, const ScanPlan& plan);

  // Takes up a block of queries, given by number.
  void begin(const std::size_t* queries, std::size_t count);
  // Filters rows [first, last). From one begin() to the next, positions must come in ascending
  // order.
  void scan(std::size_t first, std::size_t last, Interrupt& interrupt, bool calling_thread);

  // Returns what the block's queries have found so far.
  const Selection& selection() const { return selection_; }
  // Counts everything done since the scanner was made.
  SearchStats stats() const;

 private:
  void scan_tiles(std::size_t segment, std::size_t first, std::size_t last, Interrupt& interrupt,
                  bool calling_thread);
  void scan_stream(std::size_t segment, std::size_t first, std::size_t last, Interrupt& interrupt,
                   bool calling_thread);
  std::size_t next_block(std::size_t left);
  std::size_t rows_at_once(const Segment& segment, std::size_t count) const;
  void take_hits(std::size_t found, std::size_t first_query, std::size_t segment,
                 std::size_t first_row);

  const SearchRequest& request_;
  const RowSet& rows_;
  const Visibility& visibility_;
  const KernelTable& kernels_;
  const FilterBounds& bounds_;
  const ScanPlan plan_;
  std::size_t depth_, ld_;
  RowReader reader_;

  const std::size_t* queries_ = nullptr;
  std::size_t query_count_ = 0;
  std::size_t seen_rows_ = 0;  // since begin()

  std::vector<float> panels_, staged_rows_, init_, spread_, partial_;
  std::vector<Hit> hits_;
  Selection selection_;
  SearchStats scanned_;  // without what the selection counts
};

}  // namespace resmem
