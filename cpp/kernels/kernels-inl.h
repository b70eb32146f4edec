// The one kernel body. Each kernels_<isa>.cpp includes a simd_<isa>.h and then this file;
// everything lives in an unnamed namespace, and no standard template is instantiated here,
// so no code compiled for a newer ISA can leak into the rest of the library.
//
// The numbered loops around the micro-tile (cpp/README.md draws them):
//   5  query blocks, 4  row blocks, 3  query panels      engine/search.cpp
//   2  depth blocks of kc, 1  groups of MR rows           scan() below

#include "table.h"

#define RESMEM_INLINE inline __attribute__((always_inline))
#define RESMEM_LAMBDA __attribute__((always_inline))

namespace resmem {
namespace {

constexpr int kNR = kPanelVectors * F32::kLanes;
static_assert(kNR <= static_cast<int>(kMaxQueryLanes));

template <int I>
struct Index {
  static constexpr int value = I;
};

// Calls f(Index<0>), f(Index<1>) .. f(Index<N-1>): the subscripts are constants, so that
// arrays of vectors stay in registers.
template <int N, int I = 0, class F>
RESMEM_INLINE void unroll(const F& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unroll<N, I + 1>(f);
  }
}

// ------------------------------------------------------------------ filter: tiles

template <int MR>
struct Tile {
  F32 acc[MR][kPanelVectors];
};

// acc[i][lane] += rows[i][p] * panel[p][lane], or -= (rows[i][p] - panel[p][lane])^2.
template <bool kDifference, int MR>
RESMEM_INLINE void micro_tile(Tile<MR>& tile, const float* rows, std::size_t ld, const float* panel,
                              std::size_t depth) {
#pragma GCC unroll 4
  for (std::size_t p = 0; p < depth; ++p) {
    F32 b[kPanelVectors];
    unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
      b[v.value] = F32::load(panel + p * kNR + v.value * F32::kLanes);
    });
    unroll<MR>([&](auto i) RESMEM_LAMBDA {
      const F32 a = F32::set1(rows[i.value * ld + p]);
      unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
        F32& acc = tile.acc[i.value][v.value];
        if constexpr (kDifference) {
          const F32 t = sub(a, b[v.value]);
          acc = fnma(t, t, acc);
        } else {
          acc = fma(a, b[v.value], acc);
        }
      });
    });
  }
}

// Appends the pairs of one tile whose score reaches the threshold of their query.
template <int MR>
RESMEM_INLINE std::size_t emit_hits(const Tile<MR>& tile, const F32* thresholds, std::size_t row,
                                    std::size_t row_count, Hit* hits) {
  F32 best[kPanelVectors];  // max(x, best) is best if x is NaN: a damaged row hides no other
  unroll<kPanelVectors>([&](auto v)
                            RESMEM_LAMBDA { best[v.value] = F32::set1(-__builtin_inff()); });
  unroll<MR>([&](auto i) RESMEM_LAMBDA {
    unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
      best[v.value] = max(tile.acc[i.value][v.value], best[v.value]);
    });
  });
  std::uint32_t any = 0;
  unroll<kPanelVectors>([&](auto v)
                            RESMEM_LAMBDA { any |= ge_mask(best[v.value], thresholds[v.value]); });
  if (__builtin_expect(any == 0, 1)) return 0;

  float score[MR][kNR];
  std::uint32_t mask[MR];
  unroll<MR>([&](auto i) RESMEM_LAMBDA {
    mask[i.value] = 0;
    unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
      const F32 acc = tile.acc[i.value][v.value];
      acc.store(&score[i.value][v.value * F32::kLanes]);
      mask[i.value] |= ge_mask(acc, thresholds[v.value]) << (v.value * F32::kLanes);
    });
  });
  std::size_t found = 0;
  for (std::size_t i = 0; i < MR && row + i < row_count; ++i) {
    for (std::uint32_t m = mask[i]; m != 0; m &= m - 1) {
      const auto lane = static_cast<std::uint32_t>(__builtin_ctz(m));
      hits[found++] = {score[i][lane], static_cast<std::uint32_t>(row + i) * kMaxQueryLanes + lane};
    }
  }
  return found;
}

template <bool kDifference, int MR>
std::size_t scan(const ScanArgs& args) {
  F32 thresholds[kPanelVectors];
  unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
    thresholds[v.value] = F32::load(args.thresholds + v.value * F32::kLanes);
  });
  std::size_t found = 0;
  for (std::size_t start = 0; start < args.depth; start += args.depth_block) {  // 2nd loop
    const bool first = start == 0, last = args.depth - start <= args.depth_block;
    const std::size_t depth = last ? args.depth - start : args.depth_block;
    for (std::size_t row = 0; row < args.row_count; row += MR) {  // 1st loop
      Tile<MR> tile;
      float* partial = args.partial + row * kNR;
      unroll<MR>([&](auto i) RESMEM_LAMBDA {
        unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
          tile.acc[i.value][v.value] =
              first ? F32::set1(args.init[row + i.value])
                    : F32::load(partial + i.value * kNR + v.value * F32::kLanes);
        });
      });
      micro_tile<kDifference>(tile, args.rows + row * args.ld + start, args.ld,
                              args.panel + start * kNR, depth);
      if (last) {
        found += emit_hits(tile, thresholds, row, args.row_count, args.hits + found);
      } else {
        unroll<MR>([&](auto i) RESMEM_LAMBDA {
          unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
            tile.acc[i.value][v.value].store(partial + i.value * kNR + v.value * F32::kLanes);
          });
        });
      }
    }
  }
  return found;
}

constexpr void fill_tiles(FilterKernels& kernels) {
  kernels.scan_dot = scan<false, kDotRows>;
  kernels.scan_diff = scan<true, kDiffRows>;
}

// ------------------------------------------------------------------ filter: coded rows

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

// ------------------------------------------------------------------ filter: one query, raw rows

// Rows follow one another, so this is also the next rows' data. Hardware prefetchers stop at the
// end of a page; two pages (8 KB) of lead hide the start of the next one.
constexpr std::size_t kStreamAhead = 2048;

// -(query - row)^2, left in the lanes of one vector. The row is read front to back, which is
// what the hardware prefetcher follows; four chains hide the latency of the sum.
RESMEM_INLINE F32 lane_sums(const float* query, const float* row, std::size_t d) {
  constexpr std::size_t kChains = 4, kStep = kChains * F32::kLanes;
  F32 acc[kChains];
  unroll<kChains>([&](auto j) RESMEM_LAMBDA { acc[j.value] = F32::set1(0.0F); });
  const auto take = [&](F32& sum, F32 q, F32 x) RESMEM_LAMBDA {
    const F32 t = sub(q, x);
    sum = fnma(t, t, sum);
  };
  std::size_t p = 0;
  for (; p + kStep <= d; p += kStep)
    unroll<kChains>([&](auto j) RESMEM_LAMBDA {
      const std::size_t at = p + j.value * F32::kLanes;
      if constexpr (j.value * F32::kLanes % kLine == 0) __builtin_prefetch(row + at + kStreamAhead);
      take(acc[j.value], F32::load(query + at), F32::load(row + at));
    });
  for (; p + F32::kLanes <= d; p += F32::kLanes)
    take(acc[0], F32::load(query + p), F32::load(row + p));
  if (p < d) {
    const int rest = static_cast<int>(d - p);
    take(acc[1], F32::load_first(query + p, rest), F32::load_first(row + p, rest));
  }
  return add(add(acc[0], acc[1]), add(acc[2], acc[3]));
}

// Eight rows share one reduction over lanes.
std::size_t stream_diff(const StreamArgs& args) {
  constexpr std::size_t kRows = 8;
  std::size_t found = 0;
  for (std::size_t row = 0; row < args.row_count; row += kRows) {
    const std::size_t count = args.row_count - row < kRows ? args.row_count - row : kRows;
    F32 sums[kRows];
    for (std::size_t i = 0; i < count; ++i)
      sums[i] = lane_sums(args.query, args.rows + (row + i) * args.d, args.d);
    for (std::size_t i = count; i < kRows; ++i) sums[i] = F32::set1(0.0F);
    float score[kRows];
    add_lanes(sums, score);
    for (std::size_t i = 0; i < count; ++i) {
      args.hits[found] = {score[i], static_cast<std::uint32_t>(row + i) * kMaxQueryLanes};
      found += score[i] >= args.threshold ? 1 : 0;
    }
  }
  return found;
}

constexpr void fill_stream(FilterKernels& kernels) { kernels.stream_diff = stream_diff; }

// ------------------------------------------------------------------ staging

void stage(const float* x, const float* offset, float scale, float* out, std::size_t d) {
  const F32 s = F32::set1(scale);
  std::size_t p = 0;
  for (; p + F32::kLanes <= d; p += F32::kLanes)
    sub(mul(F32::load(x + p), s), F32::load(offset + p)).store(out + p);
  for (; p < d; ++p) out[p] = x[p] * scale - offset[p];
}

void stage_unit(const float* x, double scale, float* out, std::size_t d) {
  const F64 s = F64::set1(scale);
  std::size_t p = 0;
  for (; p + F64::kLanes <= d; p += F64::kLanes) mul(F64::widen(x + p), s).narrow(out + p);
  for (; p < d; ++p) out[p] = static_cast<float>(static_cast<double>(x[p]) * scale);
}

void stage64(const double* x, const double* offset, double scale, float* out, std::size_t d) {
  const F64 s = F64::set1(scale);
  std::size_t p = 0;
  for (; p + F64::kLanes <= d; p += F64::kLanes)
    sub(mul(F64::load(x + p), s), F64::load(offset + p)).narrow(out + p);
  for (; p < d; ++p) out[p] = static_cast<float>(x[p] * scale - offset[p]);
}

// V holds vectors of T.
template <class V, class T>
RESMEM_INLINE T largest_size(const T* x, std::size_t n) {
  V largest = V::set1(T{0}), zeros = V::set1(T{0});
  std::size_t p = 0;
  for (; p + V::kLanes <= n; p += V::kLanes) {
    const V value = V::load(x + p);
    largest = max(largest, abs(value));
    zeros = add(zeros, mul(value, V::set1(T{0})));  // stays 0 unless a value is inf or NaN
  }
  T lane[V::kLanes], zero[V::kLanes];
  largest.store(lane);
  zeros.store(zero);
  T result = 0, nan = 0;
  for (int i = 0; i < V::kLanes; ++i) {
    result = lane[i] > result ? lane[i] : result;
    nan += zero[i];
  }
  for (; p < n; ++p) {
    const T value = x[p] < 0 ? -x[p] : x[p];
    result = value > result ? value : result;
    nan += value * T{0};
  }
  return nan == 0 ? result : nan;
}

float max_abs(const float* x, std::size_t n) { return largest_size<F32>(x, n); }
double max_abs64(const double* x, std::size_t n) { return largest_size<F64>(x, n); }

constexpr void fill_stage(FilterKernels& kernels) {
  kernels.stage = stage;
  kernels.stage_unit = stage_unit;
  kernels.stage64 = stage64;
  kernels.max_abs = max_abs;
  kernels.max_abs64 = max_abs64;
}

// ------------------------------------------------------------------ canonical: float64, no FMA

constexpr int kPartialVectors = static_cast<int>(kPartials) / F64::kLanes;

// The fixed tree over the partial sums; its first level is p_i + p_{i+4}.
RESMEM_INLINE double combine(const F64* partial) {
  constexpr int kHalf = static_cast<int>(kPartials) / 2;
  double sum[kPartials];
  if constexpr (kPartialVectors == 1) {
    partial[0].store(sum);
    for (int i = 0; i < kHalf; ++i) sum[i] += sum[i + kHalf];
  } else {
    unroll<kPartialVectors / 2>([&](auto v) RESMEM_LAMBDA {
      add(partial[v.value], partial[v.value + kPartialVectors / 2])
          .store(sum + v.value * F64::kLanes);
    });
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// The canonical sums of term(s, i) for i < n; `vector_term(s, i)` gives F64::kLanes terms from i
// on. Several at a time do not wait for their additions.
template <int kSums, class VectorTerm, class Term>
RESMEM_INLINE void canonical_sums(std::size_t n, const VectorTerm& vector_term, const Term& term,
                                  double* out) {
  F64 partial[kSums][kPartialVectors];
  unroll<kSums>([&](auto s) RESMEM_LAMBDA {
    unroll<kPartialVectors>([&](auto v)
                                RESMEM_LAMBDA { partial[s.value][v.value] = F64::set1(0.0); });
  });
  std::size_t i = 0;
  for (; i + kPartials <= n; i += kPartials)
    unroll<kSums>([&](auto s) RESMEM_LAMBDA {
      unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
        F64& sum = partial[s.value][v.value];
        sum = add(sum, vector_term(s.value, i + v.value * F64::kLanes));
      });
    });
  if (i < n) {  // the last few, padded with zeros
    double tail[kSums][kPartials] = {};
    for (int s = 0; s < kSums; ++s)
      for (std::size_t j = 0; j < n - i; ++j) tail[s][j] = term(s, i + j);
    unroll<kSums>([&](auto s) RESMEM_LAMBDA {
      unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
        F64& sum = partial[s.value][v.value];
        sum = add(sum, F64::load(tail[s.value] + v.value * F64::kLanes));
      });
    });
  }
  unroll<kSums>([&](auto s) RESMEM_LAMBDA { out[s.value] = combine(partial[s.value]); });
}

template <class VectorTerm, class Term>
RESMEM_INLINE double canonical_sum(std::size_t n, const VectorTerm& vector_term, const Term& term) {
  double sum;
  canonical_sums<1>(
      n, [&](int, std::size_t i) RESMEM_LAMBDA { return vector_term(i); },
      [&](int, std::size_t i) RESMEM_LAMBDA { return term(i); }, &sum);
  return sum;
}

// T is float or double, of queries and rows alike.
template <int kSums, class T>
RESMEM_INLINE void some_distances(const T* const* q, const T* const* x, std::size_t d,
                                  double* out) {
  canonical_sums<kSums>(
      d,
      [&](int s, std::size_t i) RESMEM_LAMBDA {
        const F64 t = sub(F64::widen(q[s] + i), F64::widen(x[s] + i));
        return mul(t, t);
      },
      [&](int s, std::size_t i) RESMEM_LAMBDA {
        const double t = static_cast<double>(q[s][i]) - static_cast<double>(x[s][i]);
        return t * t;
      },
      out);
}

void squared_distances(const float* const* q, const float* const* x, std::size_t count,
                       std::size_t d, double* out) {
  constexpr int kSums = kPartialVectors < 4 ? 4 : 1;  // accumulators that stay in registers
  std::size_t s = 0;
  for (; s + kSums <= count; s += kSums) some_distances<kSums>(q + s, x + s, d, out + s);
  for (; s < count; ++s) some_distances<1>(q + s, x + s, d, out + s);
}

double squared_distance(const float* q, const float* x, std::size_t d) {
  double out;
  some_distances<1>(&q, &x, d, &out);
  return out;
}

double squared_distance64(const double* q, const double* x, std::size_t d) {
  double out;
  some_distances<1>(&q, &x, d, &out);
  return out;
}

template <class T>
RESMEM_INLINE double dot_of(const T* q, const T* x, std::size_t d) {
  return canonical_sum(
      d, [&](std::size_t i) RESMEM_LAMBDA { return mul(F64::widen(q + i), F64::widen(x + i)); },
      [&](std::size_t i)
          RESMEM_LAMBDA { return static_cast<double>(q[i]) * static_cast<double>(x[i]); });
}

double dot(const float* q, const float* x, std::size_t d) { return dot_of(q, x, d); }
double dot64(const double* q, const double* x, std::size_t d) { return dot_of(q, x, d); }

double csum(const double* terms, std::size_t n) {
  return canonical_sum(
      n, [&](std::size_t i) RESMEM_LAMBDA { return F64::load(terms + i); },
      [&](std::size_t i) RESMEM_LAMBDA { return terms[i]; });
}

constexpr double kShift = 0x1.8p52;
constexpr double kLog2e = 0x1.71547652b82fep+0;
constexpr double kLn2High = 0x1.62e42fee00000p-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kInverseFactorial[14] = {1.0,
                                          1.0,
                                          1.0 / 2,
                                          1.0 / 6,
                                          1.0 / 24,
                                          1.0 / 120,
                                          1.0 / 720,
                                          1.0 / 5040,
                                          1.0 / 40320,
                                          1.0 / 362880,
                                          1.0 / 3628800,
                                          1.0 / 39916800,
                                          1.0 / 479001600,
                                          1.0 / 6227020800};

RESMEM_INLINE F64 canonical_exp(F64 x) {
  const F64 shift = F64::set1(kShift);
  x = min(max(x, F64::set1(-746.0)), F64::set1(710.0));
  const F64 n = sub(add(mul(x, F64::set1(kLog2e)), shift), shift);
  const F64 r = sub(sub(x, mul(n, F64::set1(kLn2High))), mul(n, F64::set1(kLn2Low)));
  F64 q = F64::set1(kInverseFactorial[13]);
  unroll<11>([&](auto j)
                 RESMEM_LAMBDA { q = add(mul(q, r), F64::set1(kInverseFactorial[12 - j.value])); });
  const F64 e = add(F64::set1(1.0), add(r, mul(mul(r, r), q)));
  const F64 half = add(mul(n, F64::set1(0.5)), shift);  // n1, shifted
  const F64 n2 = sub(n, sub(half, shift));
  return mul(mul(e, pow2_of_shifted(half)), pow2_of_shifted(add(n2, shift)));
}

void exp_in_place(double* x, std::size_t n) {
  std::size_t i = 0;
  for (; i + F64::kLanes <= n; i += F64::kLanes) canonical_exp(F64::load(x + i)).store(x + i);
  if (i < n) {
    double lane[F64::kLanes] = {};
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    canonical_exp(F64::load(lane)).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) x[i + j] = lane[j];
  }
}

constexpr int kLogTerms = 10;  // j = 1 .. 10: what is left out is below 2^-60 of the result
constexpr double kAtanhTerm[kLogTerms + 1] = {2.0,      2.0 / 3,  2.0 / 5,  2.0 / 7,
                                              2.0 / 9,  2.0 / 11, 2.0 / 13, 2.0 / 15,
                                              2.0 / 17, 2.0 / 19, 2.0 / 21};

RESMEM_INLINE F64 canonical_log(F64 x) {
  const LogParts parts = log_parts(x);
  const F64 one = F64::set1(1.0);
  const F64 f = div(sub(parts.mantissa, one), add(parts.mantissa, one));
  const F64 s = mul(f, f);
  F64 q = F64::set1(kAtanhTerm[kLogTerms]);
  unroll<kLogTerms - 1>([&](auto j) RESMEM_LAMBDA {
    q = add(mul(q, s), F64::set1(kAtanhTerm[kLogTerms - 1 - j.value]));
  });
  const F64 tail = add(mul(mul(f, s), q), mul(parts.exponent, F64::set1(kLn2Low)));
  return add(mul(parts.exponent, F64::set1(kLn2High)), add(add(f, f), tail));
}

void log_in_place(double* x, std::size_t n) {
  std::size_t i = 0;
  for (; i + F64::kLanes <= n; i += F64::kLanes) canonical_log(F64::load(x + i)).store(x + i);
  if (i < n) {
    double lane[F64::kLanes];
    for (double& each : lane) each = 1;
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    canonical_log(F64::load(lane)).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) x[i + j] = lane[j];
  }
}

void softmax(const float* logits, double temperature, double* out, std::size_t n) {
  const F64 scale = F64::set1(temperature);
  F64 largest_lanes = F64::set1(-__builtin_inf());
  std::size_t i = 0;
  for (; i + F64::kLanes <= n; i += F64::kLanes) {
    const F64 z = div(F64::widen(logits + i), scale);
    z.store(out + i);
    largest_lanes = max(largest_lanes, z);
  }
  double lane[F64::kLanes];
  largest_lanes.store(lane);
  double largest = lane[0];
  for (const double each : lane) largest = each > largest ? each : largest;
  for (; i < n; ++i) {
    out[i] = static_cast<double>(logits[i]) / temperature;
    largest = out[i] > largest ? out[i] : largest;
  }
  for (i = 0; i < n; ++i) out[i] -= largest;
  exp_in_place(out, n);
  const double total = csum(out, n);
  for (i = 0; i < n; ++i) out[i] /= total;
}

constexpr void fill_exact(ExactKernels& kernels) {
  kernels.squared_distance = squared_distance;
  kernels.squared_distances = squared_distances;
  kernels.squared_distance64 = squared_distance64;
  kernels.dot = dot;
  kernels.dot64 = dot64;
  kernels.csum = csum;
  kernels.exp = exp_in_place;
  kernels.log = log_in_place;
  kernels.softmax = softmax;
}

double neighbour_weights(const double* distances, std::size_t count, double sigma, double* out) {
  const F64 nearest = F64::set1(distances[0]), scale = F64::set1(sigma);
  std::size_t j = 0;
  for (; j + F64::kLanes <= count; j += F64::kLanes)
    canonical_exp(div(sub(nearest, F64::load(distances + j)), scale)).store(out + j);
  if (j < count) {
    const std::size_t rest = j;
    for (; j < count; ++j) out[j] = (distances[0] - distances[j]) / sigma;
    exp_in_place(out + rest, count - rest);
  }
  double total = 0;
  for (j = 0; j < count; ++j) total += out[j];
  return total;
}

// out += the weighted sum of kRows rows, read front to back; `ahead[i]` is the row to fetch
// meanwhile, since rows lie at random places.
template <int kRows>
RESMEM_INLINE void add_rows(double* out, const float* const* rows, const float* const* ahead,
                            const double* weights, std::size_t columns) {
  F64 weight[kRows];
  const float *row[kRows], *later[kRows];  // copies: the stores to `out` cannot change them
  unroll<kRows>([&](auto i) RESMEM_LAMBDA {
    weight[i.value] = F64::set1(weights[i.value]);
    row[i.value] = rows[i.value];
    later[i.value] = ahead[i.value];
  });
  const auto add_at = [&](std::size_t c) RESMEM_LAMBDA {
    F64 sum = F64::load(out + c);
    unroll<kRows>([&](auto i) RESMEM_LAMBDA {
      sum = add(sum, mul(weight[i.value], F64::widen(row[i.value] + c)));
    });
    sum.store(out + c);
  };
  std::size_t c = 0;
  for (; c + kLine <= columns; c += kLine) {
    unroll<kRows>([&](auto i) RESMEM_LAMBDA { __builtin_prefetch(later[i.value] + c); });
    unroll<kLine / F64::kLanes>([&](auto v) RESMEM_LAMBDA { add_at(c + v.value * F64::kLanes); });
  }
  unroll<kRows>([&](auto i) RESMEM_LAMBDA { __builtin_prefetch(later[i.value] + c); });
  for (; c + F64::kLanes <= columns; c += F64::kLanes) add_at(c);
  for (; c < columns; ++c) {
    double sum = out[c];
    unroll<kRows>([&](auto i) RESMEM_LAMBDA {
      sum += weights[i.value] * static_cast<double>(row[i.value][c]);
    });
    out[c] = sum;
  }
}

// Four rows a pass: the sums are loaded and stored once per four rows read.
void weighted_sum(double* out, const float* const* rows, const double* weights, std::size_t count,
                  std::size_t columns) {
  // Short rows take less time than memory does: look further ahead.
  const std::size_t ahead = columns <= 256 ? kRowsAhead : kRowsAhead / 4;
  std::size_t j = 0;
  for (; j + 4 <= count; j += 4) add_rows<4>(out, rows + j, rows + j + ahead, weights + j, columns);
  for (; j < count; ++j) add_rows<1>(out, rows + j, rows + j + ahead, weights + j, columns);
}

constexpr void fill_weighted_sum(SumKernels& kernels) {
  kernels.neighbour_weights = neighbour_weights;
  kernels.weighted_sum = weighted_sum;
}

// ------------------------------------------------------------------ canonical: tuning

// kScales sums of the same rows under weights of their own, kVectors vectors of columns at a
// time: every widened number serves all scales.
template <int kScales, int kVectors>
RESMEM_INLINE void sums_tile(const SumsArgs& args, std::size_t scale, std::size_t c) {
  F64 sum[kScales][kVectors];
  double* const to = args.sums + scale * args.ld + c;
  unroll<kScales>([&](auto i) RESMEM_LAMBDA {
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      sum[i.value][v.value] = F64::load(to + i.value * args.ld + v.value * F64::kLanes);
    });
  });
  const double* weight = args.weights + scale;
  for (std::size_t j = 0; j < args.count; ++j, weight += args.scales) {
    F64 x[kVectors];
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      x[v.value] = F64::widen(args.rows[j] + c + v.value * F64::kLanes);
    });
    unroll<kScales>([&](auto i) RESMEM_LAMBDA {
      const F64 w = F64::set1(weight[i.value]);
      unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
        sum[i.value][v.value] = add(sum[i.value][v.value], mul(w, x[v.value]));
      });
    });
  }
  unroll<kScales>([&](auto i) RESMEM_LAMBDA {
    unroll<kVectors>([&](auto v) RESMEM_LAMBDA {
      sum[i.value][v.value].store(to + i.value * args.ld + v.value * F64::kLanes);
    });
  });
}

template <int kScales>
void sums_of_scales(const SumsArgs& args, std::size_t scale) {
  std::size_t c = 0;
  for (; c + 2 * F64::kLanes <= args.columns; c += 2 * F64::kLanes)
    sums_tile<kScales, 2>(args, scale, c);
  for (; c + F64::kLanes <= args.columns; c += F64::kLanes) sums_tile<kScales, 1>(args, scale, c);
  for (; c < args.columns; ++c)
    for (std::size_t i = scale; i < scale + kScales; ++i) {
      double sum = args.sums[i * args.ld + c];
      for (std::size_t j = 0; j < args.count; ++j)
        sum += args.weights[j * args.scales + i] * static_cast<double>(args.rows[j][c]);
      args.sums[i * args.ld + c] = sum;
    }
}

void weighted_sums(const SumsArgs& args) {
  std::size_t i = 0;
  for (; i + 4 <= args.scales; i += 4) sums_of_scales<4>(args, i);
  for (; i < args.scales; ++i) sums_of_scales<1>(args, i);
}

// The largest lane of eight partial maxima.
RESMEM_INLINE double largest_of(const F64* partial) {
  F64 most = partial[0];
  for (int v = 1; v < kPartialVectors; ++v) most = max(most, partial[v]);
  double lane[F64::kLanes];
  most.store(lane);
  double largest = lane[0];
  for (const double each : lane) largest = each > largest ? each : largest;
  return largest;
}

ClippedSums clipped_sums(const double* base, const double* sums, const double* floors,
                         double factor, std::size_t n) {
  const F64 scale = F64::set1(factor);
  F64 total[kPartialVectors], squares[kPartialVectors], largest[kPartialVectors];
  unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
    total[v.value] = squares[v.value] = largest[v.value] = F64::set1(0.0);
  });
  for (std::size_t i = 0; i < n; i += kPartials)
    unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
      const std::size_t at = i + v.value * F64::kLanes;
      const F64 x =
          max(add(F64::load(base + at), mul(scale, F64::load(sums + at))), F64::load(floors + at));
      total[v.value] = add(total[v.value], x);
      squares[v.value] = add(squares[v.value], mul(x, x));
      largest[v.value] = max(x, largest[v.value]);
    });
  return {combine(total), combine(squares), largest_of(largest)};
}

// kFactors factors at a time: each sum waits for its last addition, and there are only
// kPartialVectors of a factor.
template <int kFactors>
RESMEM_INLINE void totals_tile(const double* base, const double* sums, const double* floors,
                               const double* factors, std::size_t n, double* out) {
  F64 scale[kFactors], total[kFactors][kPartialVectors];
  unroll<kFactors>([&](auto f) RESMEM_LAMBDA {
    scale[f.value] = F64::set1(factors[f.value]);
    unroll<kPartialVectors>([&](auto v)
                                RESMEM_LAMBDA { total[f.value][v.value] = F64::set1(0.0); });
  });
  for (std::size_t i = 0; i < n; i += kPartials)
    unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
      const std::size_t at = i + v.value * F64::kLanes;
      const F64 b = F64::load(base + at), s = F64::load(sums + at), least = F64::load(floors + at);
      unroll<kFactors>([&](auto f) RESMEM_LAMBDA {
        F64& sum = total[f.value][v.value];
        sum = add(sum, max(add(b, mul(scale[f.value], s)), least));
      });
    });
  for (int f = 0; f < kFactors; ++f) out[f] = combine(total[f]);
}

void clipped_totals(const double* base, const double* sums, const double* floors,
                    const double* factors, std::size_t count, std::size_t n, double* out) {
  constexpr int kFactors = kPartialVectors < 4 ? 3 : 1;
  std::size_t f = 0;
  for (; f + kFactors <= count; f += kFactors)
    totals_tile<kFactors>(base, sums, floors, factors + f, n, out + f);
  for (; f < count; ++f) totals_tile<1>(base, sums, floors, factors + f, n, out + f);
}

double projection_shift(const double* x, std::size_t n, double mass) {
  double shift = -__builtin_inf(), before = __builtin_inf();
  while (true) {
    const F64 t = F64::set1(shift), one = F64::set1(1.0);
    F64 total[kPartialVectors], count[kPartialVectors];
    unroll<kPartialVectors>(
        [&](auto v) RESMEM_LAMBDA { total[v.value] = count[v.value] = F64::set1(0.0); });
    for (std::size_t i = 0; i < n; i += kPartials)
      unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
        const F64 value = F64::load(x + i + v.value * F64::kLanes);
        total[v.value] = add(total[v.value], keep_greater(value, t, value));
        count[v.value] = add(count[v.value], keep_greater(value, t, one));
      });
    const double kept = combine(count);
    if (!(kept < before) || kept == 0) return shift;
    shift = (combine(total) - mass) / kept;
    before = kept;
  }
}

constexpr void fill_tuning(SumKernels& kernels) {
  kernels.weighted_sums = weighted_sums;
  kernels.clipped_sums = clipped_sums;
  kernels.clipped_totals = clipped_totals;
  kernels.projection_shift = projection_shift;
}

// ------------------------------------------------------------------ canonical: a linear layer

// kKeys keys x kColumns rows of the layer, from row `first` on: the partial sums stay in
// registers, every widened weight serves all keys and every vector of a key all rows.
template <int kKeys, int kColumns>
RESMEM_INLINE void head_tile(const HeadArgs& args, std::size_t first) {
  F64 partial[kColumns][kKeys][kPartialVectors];
  unroll<kColumns>([&](auto c) RESMEM_LAMBDA {
    unroll<kKeys>([&](auto k) RESMEM_LAMBDA {
      unroll<kPartialVectors>(
          [&](auto v) RESMEM_LAMBDA { partial[c.value][k.value][v.value] = F64::set1(0.0); });
    });
  });
  const auto take = [&](const float* weight, std::size_t weight_ld, std::size_t i) RESMEM_LAMBDA {
    unroll<kPartialVectors>([&](auto v) RESMEM_LAMBDA {
      constexpr std::size_t at = v.value * F64::kLanes;
      F64 w[kColumns];
      unroll<kColumns>([&](auto c) RESMEM_LAMBDA {
        w[c.value] = F64::widen(weight + c.value * weight_ld + at);
      });
      unroll<kKeys>([&](auto k) RESMEM_LAMBDA {
        const F64 key = F64::load(args.panel + k.value * args.ld + i + at);
        unroll<kColumns>([&](auto c) RESMEM_LAMBDA {
          F64& sum = partial[c.value][k.value][v.value];
          sum = add(sum, mul(w[c.value], key));
        });
      });
    });
  };
  const float* weight = args.weight + first * args.d;
  std::size_t i = 0;
  for (; i + kPartials <= args.d; i += kPartials) take(weight + i, args.d, i);
  if (i < args.d) {  // the last few, padded with zeros like the keys
    float tail[kColumns][kPartials] = {};
    for (std::size_t c = 0; c < kColumns; ++c)
      for (std::size_t j = 0; j < args.d - i; ++j) tail[c][j] = weight[c * args.d + i + j];
    take(tail[0], kPartials, i);
  }
  constexpr double kLargest = 0x1.fffffep+127;
  for (std::size_t k = 0; k < kKeys && k < args.keys; ++k)
    for (std::size_t c = 0; c < kColumns; ++c) {
      double logit = combine(partial[c][k]) + static_cast<double>(args.bias[first + c]);
      logit = logit > kLargest ? kLargest : logit < -kLargest ? -kLargest : logit;
      args.out[k * args.out_ld + first + c] = static_cast<float>(logit);
    }
}

template <int kKeys, int kColumns>
void head_tiles(const HeadArgs& args) {
  std::size_t c = 0;
  for (; c + kColumns <= args.columns; c += kColumns) head_tile<kKeys, kColumns>(args, c);
  for (; c < args.columns; ++c) head_tile<kKeys, 1>(args, c);
}

// A single key gets as many sums by taking more rows.
void head_logits(const HeadArgs& args) {
  if (args.keys == 1)
    head_tiles<1, kHeadKeys * kHeadColumns>(args);
  else
    head_tiles<kHeadKeys, kHeadColumns>(args);
}

constexpr void fill_head(SumKernels& kernels) { kernels.head_logits = head_logits; }

// ------------------------------------------------------------------ numbers half as wide

void widen_float16(const std::uint16_t* x, float* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + F32::kLanes <= n; i += F32::kLanes) F32::widen(x + i).store(out + i);
  if (i < n) {
    std::uint16_t half[F32::kLanes] = {};
    float lane[F32::kLanes];
    for (std::size_t j = 0; j < n - i; ++j) half[j] = x[i + j];
    F32::widen(half).store(lane);
    for (std::size_t j = 0; j < n - i; ++j) out[i + j] = lane[j];
  }
}

void narrow_float16(const float* x, std::uint16_t* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + F32::kLanes <= n; i += F32::kLanes) F32::load(x + i).narrow(out + i);
  if (i < n) {
    std::uint16_t half[F32::kLanes];
    float lane[F32::kLanes] = {};
    for (std::size_t j = 0; j < n - i; ++j) lane[j] = x[i + j];
    F32::load(lane).narrow(half);
    for (std::size_t j = 0; j < n - i; ++j) out[i + j] = half[j];
  }
}

// A bfloat16 is the upper half of a float32: integers throughout, left to the compiler.
void widen_bfloat16(const std::uint16_t* x, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x[i]) << 16;
    __builtin_memcpy(out + i, &bits, sizeof bits);
  }
}

void narrow_bfloat16(const float* x, std::uint16_t* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const std::uint32_t quiet = bits >> 16 | 0x40;  // rounding could carry a NaN to infinity
    const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    out[i] = static_cast<std::uint16_t>(nan ? quiet : rounded);
  }
}

constexpr void fill_numbers(NumberKernels& kernels) {
  kernels.widen_float16 = widen_float16;
  kernels.widen_bfloat16 = widen_bfloat16;
  kernels.narrow_float16 = narrow_float16;
  kernels.narrow_bfloat16 = narrow_bfloat16;
}

// ------------------------------------------------------------------ the table

constexpr int common_multiple(int a, int b) {
  int m = a;
  while (m % b != 0) m += a;
  return m;
}

constexpr KernelTable make_table(const char* name, bool emulated) {
  KernelTable table{};
  table.name = name;
  table.emulated = emulated;
  table.query_lanes = static_cast<std::uint32_t>(kNR);
  table.row_step = static_cast<std::uint32_t>(common_multiple(kDotRows, kDiffRows));
  table.head_keys = static_cast<std::uint32_t>(kHeadKeys);
  fill_tiles(table.filter);
  fill_stream(table.filter);
  fill_stage(table.filter);
  fill_codes(table.codes);
  fill_exact(table.exact);
  fill_weighted_sum(table.sums);
  fill_tuning(table.sums);
  fill_head(table.sums);
  fill_numbers(table.numbers);
  return table;
}

template <class... Function>
constexpr bool none_null(Function... function) {
  return ((function != nullptr) && ...);
}

// A structured binding must name every member, so a kernel that is added to a struct and not to
// its line here does not compile, and one that no function above fills fails the assertion.
constexpr bool is_complete(const KernelTable& table) {
  const auto& [scan_dot, scan_diff, stream, staged, unit, staged64, largest, largest64] =
      table.filter;
  const auto& [code_scan, code_score, code_dot] = table.codes;
  const auto& [distance, distances, distance64, dot32, dot_64, sum, e, l, soft] = table.exact;
  const auto& [weights, one_sum, some_sums, clipped, totals, shift, logits] = table.sums;
  const auto& [widen16, widen_b16, narrow16, narrow_b16] = table.numbers;
  return none_null(scan_dot, scan_diff, stream, staged, unit, staged64, largest, largest64) &&
         none_null(code_scan, code_score, code_dot) &&
         none_null(distance, distances, distance64, dot32, dot_64, sum, e, l, soft) &&
         none_null(weights, one_sum, some_sums, clipped, totals, shift, logits) &&
         none_null(widen16, widen_b16, narrow16, narrow_b16);
}
static_assert(is_complete(make_table("", false)), "a kernel of the table is left null");

}  // namespace
}  // namespace resmem
