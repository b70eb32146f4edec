// The cascade's filter: rows coded in 8 bits against coded queries, in exact integers.
#pragma once

#include "../table.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

// Scores of kQueries queries and the rows of kCodeVectors vectors stay in registers.
// Adds products to scores[query][vector]; `rows` is where the first row's codes lie in its panel.
template <int kQueries, int kVectors>
RESMEM_INLINE void add_codes(CodeScores (&score)[kQueries][kVectors],
                             const std::uint8_t* const (&query)[kQueries], const std::int8_t* rows,
                             std::size_t depth) {
  for (std::size_t p = 0; p < depth; p += 4) {
    CodeRows row[kVectors];
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      row[v.value] = CodeRows::load(rows + p * kPanelRows + v.value * CodeScores::kRows * 4);
    });
    unroll<kQueries>([&](auto i) RESMEM_LAMBDA {
      const CodeRows four = CodeRows::broadcast(query[i.value] + p);
      unroll<kVectors>([&](auto v)
                           RESMEM_LAMBDA { score[i.value][v.value].add(four, row[v.value]); });
    });
  }
}

template <int kQueries>
RESMEM_INLINE std::size_t code_tile(const CodeScanArgs& args, std::size_t first_query,
                                    std::size_t first_row, CodeHit* hits) {
  const std::size_t panel = first_row / kPanelRows * kPanelRows;
  const std::int8_t* rows = args.panels + panel * args.depth + (first_row - panel) * 4;
  const std::uint8_t* query[kQueries];
  CodeScores score[kQueries][kCodeVectors];
  unroll<kQueries>([&](auto i) RESMEM_LAMBDA {
    query[i.value] = args.queries[first_query + i.value];
    unroll<kCodeVectors>([&](auto v) RESMEM_LAMBDA {
      score[i.value][v.value] =
          CodeScores::start(args.init + first_row + v.value * CodeScores::kRows,
                            args.thresholds[first_query + i.value]);
    });
  });
  add_codes(score, query, rows, args.depth);
  CodeSigns signs[kQueries][kCodeVectors], all = CodeSigns::of(score[0][0]);
  unroll<kQueries>([&](auto i) RESMEM_LAMBDA {
    unroll<kCodeVectors>([&](auto v) RESMEM_LAMBDA {
      signs[i.value][v.value] = CodeSigns::of(score[i.value][v.value]);
      all = all.both(signs[i.value][v.value]);
    });
  });
  if (__builtin_expect(all.nonnegative() == 0, 1)) return 0;
  std::size_t found = 0;
  unroll<kQueries>([&](auto i) RESMEM_LAMBDA {
    unroll<kCodeVectors>([&](auto v) RESMEM_LAMBDA {
      for (std::uint32_t m = signs[i.value][v.value].nonnegative(); m != 0; m &= m - 1)
        hits[found++] = {static_cast<std::uint32_t>(first_row + v.value * CodeScores::kRows) +
                             static_cast<std::uint32_t>(__builtin_ctz(m)),
                         static_cast<std::uint32_t>(first_query + i.value)};
    });
  });
  return found;
}

template <int kQueries>
std::size_t scan_code_rows(const CodeScanArgs& args, std::size_t first_query, CodeHit* hits) {
  constexpr std::size_t kStep = kCodeVectors * CodeScores::kRows;
  static_assert(kPanelRows % kStep == 0);
  std::size_t found = 0;
  for (std::size_t row = 0; row < args.row_count; row += kStep)
    found += code_tile<kQueries>(args, first_query, row, hits + found);
  return found;
}

std::size_t scan_codes(const CodeScanArgs& args) {
  std::size_t found = 0, query = 0;
  for (; query + kCodeQueries <= args.query_count; query += kCodeQueries)
    found += scan_code_rows<kCodeQueries>(args, query, args.hits + found);
  for (; query + 2 <= args.query_count; query += 2)
    found += scan_code_rows<2>(args, query, args.hits + found);
  if (query < args.query_count) found += scan_code_rows<1>(args, query, args.hits + found);
  return found;
}

void score_codes(const CodeScanArgs& args, std::int32_t* scores) {
  constexpr int kVectors = kPanelRows / CodeScores::kRows;
  const std::uint8_t* const query[1] = {args.queries[0]};
  for (std::size_t row = 0; row < args.row_count; row += kPanelRows) {
    CodeScores score[1][kVectors];
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      score[0][v.value] =
          CodeScores::start(args.init + row + v.value * CodeScores::kRows, args.thresholds[0]);
    });
    add_codes(score, query, args.panels + row * args.depth, args.depth);
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      score[0][v.value].store(scores + row + v.value * CodeScores::kRows);
    });
  }
}

// The row's codes are widened once for all queries; each has two sums, so that no addition waits
// for the one before.
template <int kQueries>
RESMEM_INLINE void dots_of_row(const std::int8_t* row, const std::int16_t* const* queries,
                               std::size_t n, std::int32_t* out) {
  constexpr int kSums = 2;
  static_assert(kCodeStep % (kSums * WideCodes::kCodes) == 0 || kCodeStep == WideCodes::kCodes);
  CodeSum sums[kQueries][kSums];
  unroll<kQueries>([&](auto q) RESMEM_LAMBDA {
    unroll<kSums>([&](auto s) RESMEM_LAMBDA { sums[q.value][s.value] = CodeSum::zero(); });
  });
  std::size_t i = 0;
  for (; i + kSums * WideCodes::kCodes <= n; i += kSums * WideCodes::kCodes)
    unroll<kSums>([&](auto s) RESMEM_LAMBDA {
      const std::size_t at = i + s.value * WideCodes::kCodes;
      const WideCodes codes = WideCodes::load(row + at);
      unroll<kQueries>(
          [&](auto q) RESMEM_LAMBDA { sums[q.value][s.value].add(codes, queries[q.value] + at); });
    });
  if (i < n) {
    const WideCodes codes = WideCodes::load(row + i);
    unroll<kQueries>([&](auto q)
                         RESMEM_LAMBDA { sums[q.value][0].add(codes, queries[q.value] + i); });
  }
  unroll<kQueries>([&](auto q) RESMEM_LAMBDA {
    sums[q.value][0].add(sums[q.value][1]);
    out[q.value] = sums[q.value][0].total();
  });
}

void code_dots(const std::int8_t* row, const std::int16_t* const* queries, std::size_t count,
               std::size_t n, std::int32_t* out) {
  std::size_t q = 0;
  for (; q + 4 <= count; q += 4) dots_of_row<4>(row, queries + q, n, out + q);
  for (; q + 2 <= count; q += 2) dots_of_row<2>(row, queries + q, n, out + q);
  if (q < count) dots_of_row<1>(row, queries + q, n, out + q);
}

constexpr void fill_codes(CodeKernels& kernels) {
  kernels.scan = scan_codes;
  kernels.score = score_codes;
  kernels.dots = code_dots;
}

}  // namespace
}  // namespace resmem
