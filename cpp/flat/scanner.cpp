#include "scanner.h"

#include <algorithm>
#include <cmath>

namespace resmem {
namespace {

std::size_t round_to(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

// Returns a leading dimension that is a whole number of cache lines but not of pages, so that the
// rows of a tile do not fall into the same cache sets.
std::size_t leading_dimension(std::size_t depth) {
  const std::size_t ld = round_to(depth, 16);
  return ld % 1024 == 0 ? ld + 16 : ld;
}

}  // namespace

Scanner::Scanner(const SearchRequest& request, const RowSet& rows, const Visibility& visibility,
                 const KernelTable& kernels, const FilterBounds& bounds, const ScanPlan& plan)
    : request_(request),
      rows_(rows),
      visibility_(visibility),
      kernels_(kernels),
      bounds_(bounds),
      plan_(plan),
      depth_(round_to(request.d, kDepthStep)),
      ld_(leading_dimension(depth_)),
      reader_(rows, kernels),
      selection_(request, rows, kernels, bounds, plan.capacity) {
  const std::size_t padded = round_to(plan_.block_rows, kernels_.row_step);
  init_.assign(padded, 0.0F);
  spread_.assign(padded, 0.0F);
  if (plan_.stream) {
    hits_.resize(plan_.block_rows);
    return;
  }
  staged_rows_.assign(padded * ld_, 0.0F);
  hits_.resize(padded * kernels_.query_lanes);
  if (depth_ > plan_.depth_block) partial_.resize(padded * kernels_.query_lanes);
}

void Scanner::begin(const std::size_t* queries, std::size_t count) {
  queries_ = queries;
  query_count_ = count;
  const std::size_t lanes = kernels_.query_lanes, panels = (count + lanes - 1) / lanes;
  seen_rows_ = 0;
  std::vector<StagedQuery> facts(count);
  std::vector<float> staged(request_.d);
  if (!plan_.stream) panels_.assign(panels * lanes * depth_, 0.0F);
  for (std::size_t i = 0; i < count; ++i) {
    facts[i] = bounds_.stage_query(request_, queries[i], staged.data());
    if (plan_.stream) continue;
    float* lane = panels_.data() + i / lanes * lanes * depth_ + i % lanes;
    for (std::size_t p = 0; p < request_.d; ++p) lane[p * lanes] = staged[p];
  }
  selection_.begin(queries, facts, lanes);
}

SearchStats Scanner::stats() const {
  SearchStats all = scanned_;
  all.add(selection_.stats);
  return all;
}

void Scanner::scan(std::size_t first, std::size_t last, Interrupt& interrupt, bool calling_thread) {
  for (std::size_t s = rows_.segment_of(first); first < last; ++s) {
    const std::size_t start = rows_.start(s);
    const std::size_t end = std::min(last, start + rows_.segments()[s].n);
    if (end <= first) continue;
    if (plan_.stream)
      scan_stream(s, first - start, end - start, interrupt, calling_thread);
    else
      scan_tiles(s, first - start, end - start, interrupt, calling_thread);
    first = end;
  }
}

void Scanner::scan_tiles(std::size_t s, std::size_t first, std::size_t last, Interrupt& interrupt,
                         bool calling_thread) {
  const std::size_t lanes = kernels_.query_lanes;
  const FilterBounds::Kernel filter = bounds_.kernel(kernels_);
  ScanArgs args{};
  args.rows = staged_rows_.data();
  args.ld = ld_;
  args.init = init_.data();
  args.depth = depth_;
  args.depth_block = plan_.depth_block;
  args.partial = partial_.data();
  args.hits = hits_.data();
  for (std::size_t row = first; row < last; row += args.row_count) {  // 4th loop: mc rows
    args.row_count = next_block(last - row);
    bounds_.stage_rows(reader_, rows_.segments()[s], row, args.row_count,
                       {staged_rows_.data(), ld_, init_.data(), spread_.data()});
    for (std::size_t q = 0; q < query_count_; q += lanes) {  // 3rd loop: a panel of NR queries
      interrupt.poll(calling_thread);
      args.panel = panels_.data() + q * depth_;
      args.thresholds = selection_.thresholds() + q;
      take_hits(filter(args), q, s, row);
    }
    scanned_.pairs_filtered += args.row_count * query_count_;
    if (args.row_count < plan_.block_rows) selection_.tighten();
  }
}

void Scanner::scan_stream(std::size_t s, std::size_t first, std::size_t last, Interrupt& interrupt,
                          bool calling_thread) {
  const Segment& segment = rows_.segments()[s];
  std::size_t count = 0;
  for (std::size_t row = first; row < last; row += count) {
    count = next_block(last - row);
    interrupt.poll(calling_thread);
    const std::size_t step = rows_at_once(segment, count);
    for (std::size_t first_read = 0; first_read < count; first_read += step) {
      const std::size_t read = std::min(step, count - first_read);
      const float* rows = reader_.rows(segment, row + first_read, read);
      for (std::size_t q = 0; q < query_count_; ++q) {
        const StreamArgs args{request_.queries + queries_[q] * request_.d,
                              rows,
                              request_.d,
                              read,
                              selection_.thresholds()[q],
                              hits_.data()};
        take_hits(kernels_.filter.stream_diff(args), q, s, row + first_read);
      }
    }
    scanned_.pairs_filtered += count * query_count_;
    if (count < plan_.block_rows) selection_.tighten();
  }
}

// A stream reads float32 rows where they lie. It reads others a few at a time, so that they stay in
// the level-1 cache once they are widened.
std::size_t Scanner::rows_at_once(const Segment& segment, std::size_t count) const {
  constexpr std::size_t kFloats = 4096, kRows = 8;
  if (segment.keys.type == NumberType::float32) return count;
  return std::max(kRows, kFloats / request_.d / kRows * kRows);
}

// Thresholds are as old as the block. While few rows have been seen they rise fast, and so a block
// has no more rows than were seen before it, or at first than fill a buffer.
std::size_t Scanner::next_block(std::size_t left) {
  const std::size_t step = kernels_.row_step;
  const std::size_t seen = std::max(seen_rows_, plan_.capacity);
  const std::size_t most = std::min(plan_.block_rows, (seen + step - 1) / step * step);
  const std::size_t count = std::min(most, left);
  seen_rows_ += count;
  return count;
}

void Scanner::take_hits(std::size_t found, std::size_t first_query, std::size_t s,
                        std::size_t first_row) {
  const Segment& segment = rows_.segments()[s];
  scanned_.hits += found;
  for (std::size_t h = 0; h < found; ++h) {
    const std::size_t query = first_query + hits_[h].where % kMaxQueryLanes;
    const std::size_t in_block = hits_[h].where / kMaxQueryLanes, row = first_row + in_block;
    const float score = hits_[h].score;
    if (score < selection_.thresholds()[query]) continue;  // the threshold has risen since
    if (!visibility_.sees(queries_[query], segment, row)) continue;
    const float low = FilterBounds::lower_end(score, spread_[in_block]);
    if (std::isnan(low)) continue;  // the row is not finite, or exceeds its segment's max_abs
    selection_.push(query, {score, low, rows_.start(s) + row});
  }
}

}  // namespace resmem
