#include "coded_row_filter.h"

#include <algorithm>

namespace resmem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kAhead = 4;  // rows that are fetched while one is looked at

}  // namespace

void CodedRowFilter::begin(const QueryBlock& block) {
  block_ = &block;
  taken_.resize(block.count());
  for (std::vector<std::uint32_t>& places : taken_) places.clear();
}

void CodedRowFilter::take(std::vector<Pair>& pairs) {
  const bool restricted = scope_.visibility.restricts();
  if (restricted) keep_visible(pairs);  // which spares the others' codes
  if (cascade_.code_depth > 0) bound_by_codes(pairs);
  fresh_.resize(pairs.size());
  std::size_t count = 0;
  for (std::size_t h = 0; h < pairs.size(); ++h) {
    const Pair pair = pairs[h];
    const std::size_t i = pair.query;
    const std::uint32_t row = cascade_.rows[pair.place];
    if (row == kNoRow || candidates_.gave_up(i)) continue;
    const std::vector<std::uint32_t>& taken = taken_[i];
    if (std::binary_search(taken.begin(), taken.end(), pair.place)) continue;
    if (!restricted && !sees(pair)) continue;
    pairs[count] = pair;
    CascadeCandidate& c = fresh_[count++] = {0, 0, kUnknownKey, scope_.segment.id(row), row};
    const std::uint32_t query = block_->number(i);
    if (cascade_.code_depth == 0) {
      keys_.want(query, c);
      continue;
    }
    const double error = coded_.coded_error(query, pair.place);
    c.low = coded_.low(query, squares_[h], error);
    c.high = coded_.high(query, squares_[h], error);
  }
  keys_.find();
  for (std::size_t h = 0; h < count; ++h)
    if (fresh_[h].low < kInfinity) candidates_.keep(pairs[h].query, fresh_[h]);
}

bool CodedRowFilter::sees(const Pair& pair) const {
  const std::uint32_t row = cascade_.rows[pair.place];
  return row != kNoRow &&
         scope_.visibility.sees(scope_.first + block_->number(pair.query), scope_.segment, row);
}

// Leaves the pairs of queries and rows that they see.
void CodedRowFilter::keep_visible(std::vector<Pair>& pairs) {
  std::size_t stay = 0;
  for (const Pair& pair : pairs) {
    pairs[stay] = pair;
    stay += sees(pair) ? 1 : 0;
  }
  pairs.resize(stay);
}

// Leaves the pairs that may be within reach by the rows' own codes, with their squared distances.
void CodedRowFilter::bound_by_codes(std::vector<Pair>& pairs) {
  const std::size_t count = pairs.size();
  const auto fetch = [&](std::size_t h) {
    if (h < count && (h == 0 || pairs[h].place != pairs[h - 1].place)) prefetch(pairs[h].place);
  };
  for (std::size_t h = 0; h < kAhead; ++h) fetch(h);
  rows_coded += count;
  squares_.resize(count);
  for (std::size_t h = 0; h < count;) {  // each round takes a row and queries that hit it
    std::size_t queries[CodedQueries::kMostSquares], some = 0;
    const std::uint32_t place = pairs[h].place;
    for (; h + some < count && some < CodedQueries::kMostSquares && pairs[h + some].place == place;
         ++some) {
      queries[some] = block_->number(pairs[h + some].query);
      fetch(h + some + kAhead);
    }
    coded_.coded_squares(place, queries, some, &squares_[h]);
    h += some;
  }
  // Which of them stay is hard to predict, so there are no branches.
  std::size_t stay = 0;
  for (std::size_t h = 0; h < count; ++h) {
    const Pair pair = pairs[h];
    const std::size_t query = block_->number(pair.query);
    const double square = squares_[h], error = coded_.coded_error(query, pair.place);
    pairs[stay] = pair;
    squares_[stay] = square;
    stay += coded_.may_reach(query, square, error, candidates_.reach(pair.query)) ? 1 : 0;
  }
  pairs.resize(stay);
}

// Asks for what bound_by_codes() reads of a row.
void CodedRowFilter::prefetch(std::uint32_t place) const {
  prefetch_bytes(&cascade_.codes[place * cascade_.code_depth], cascade_.code_depth);
  prefetch_bytes(&cascade_.coded[place], sizeof(CodedRow));
}

}  // namespace resmem
