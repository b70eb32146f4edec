// The contract between the ISA-neutral core and the per-ISA kernels.
//
// Everything that touches a vector register is behind this table; there is one table per
// ISA, filled from one source body (kernels-inl.h). Filter kernels may round as they like
// within the bounds named here. Canonical kernels must return the bits of cpp/CONTRACT.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resmem {

// One (row, query) pair whose score reached the query's threshold.
struct Hit {
  float score;
  std::uint32_t where;  // row within the block * kMaxQueryLanes + lane within the panel
};

inline constexpr std::uint32_t kMaxQueryLanes = 32;
inline constexpr std::size_t kRowsAhead = 16;
inline constexpr std::size_t kLine = 16;      // floats in a cache line
inline constexpr std::size_t kDepthStep = 4;  // staged depth is padded with zeros to this
inline constexpr std::size_t kPartials = 8;   // of a canonical sum

// n, rounded up to whole rounds of the partial sums.
constexpr std::size_t padded_to_partials(std::size_t n) {
  return (n + kPartials - 1) / kPartials * kPartials;
}

// A panel of queries against a block of staged rows.
//
//   panel   depth x query_lanes, lane fastest:  panel[p * query_lanes + lane]
//   rows    rows_padded x ld, row-major:        rows[r * ld + p]
//
//             query_lanes (NR)
//            +--------------+
//            |    panel     | depth
//            +--------------+
//   depth    +--------------+
//  +------+  |  scores of   | row_step rows (MR) at a time stay in registers,
//  | rows |  |  one tile    | are compared with the NR thresholds and forgotten;
//  +------+  +--------------+ only hits leave the tile
//
// Edges are the caller's: depth is a multiple of kDepthStep (zero filled), the rows are
// readable up to the next multiple of row_step, unused lanes have threshold +inf.
struct ScanArgs {
  const float* panel;
  const float* rows;
  std::size_t ld;
  const float* init;      // score of a row before its first product, padded like the rows
  std::size_t row_count;  // hits are reported for rows below this
  std::size_t depth;
  std::size_t depth_block;  // kc: the depth a tile keeps in registers between visits
  const float* thresholds;  // query_lanes of them
  float* partial;           // row_count_padded * query_lanes floats; used if depth > depth_block
  Hit* hits;                // room for row_count * query_lanes
};

// One query against raw rows that are read once (few queries: bound by memory).
struct StreamArgs {
  const float* query;  // d floats
  const float* rows;   // row-major, leading dimension d, no padding
  std::size_t d;
  std::size_t row_count;
  float threshold;
  Hit* hits;  // room for row_count
};

// Rows coded in 8 bits, against coded queries (cpp/index/cascade/README.md derives the codes).
//
//   panels   panels of kPanelRows rows; of four codes after the other, those of every row together:
//            panel[(p / 4 * kPanelRows + row) * 4 + p % 4], in [-127, 127]
//   queries  query_count pointers to depth codes each, in [0, 127], 4-byte aligned
//   init     one number per row, thresholds one per query
//
//            row 0    row 1          row 31
//          +--------+--------+ ... +--------+
//   p 0-3  |c c c c |c c c c |     |c c c c |   a vector holds four codes of 4, 8 or 16 rows;
//   p 4-7  |c c c c |c c c c |     |c c c c |   four codes of a query are broadcast to all
//          +--------+--------+ ... +--------+
//
// With v = init[row] - thresholds[query] + sum panel * query, a pair is a hit if v >= 0. The caller
// sees to it that v < 2^15; pairs with v < -2^15 may or may not be hits (sums of 16 bits wrap).
// Edges are the caller's: depth is a multiple of 4, row_count of kPanelRows.
inline constexpr std::size_t kPanelRows = 32;

struct CodeHit {
  std::uint32_t row, query;
};

struct CodeScanArgs {
  const std::int8_t* panels;
  const std::int32_t* init;
  std::size_t row_count;
  std::size_t depth;
  const std::uint8_t* const* queries;
  const std::int32_t* thresholds;
  std::size_t query_count;
  CodeHit* hits;  // room for row_count * query_count
};

inline constexpr std::size_t kCodeStep = 32;  // CodeKernels::dots takes so many codes at a time

// A few keys against rows of a linear layer.
//
//   panel   head_keys rows of float64, row-major:   panel[key * ld + i], zero from d to ld;
//           best on cache lines; the rows from `keys` on are read too
//   weight  columns x d, row-major, not padded
//
// out[key * out_ld + c] = float32(csum(weight[c][i] * panel[key][i]) + bias[c]) for key < keys,
// clamped to what float32 can hold.
struct HeadArgs {
  const double* panel;
  std::size_t ld;  // d rounded up to a multiple of kPartials
  const float* weight;
  const float* bias;
  std::size_t d;
  std::size_t columns;
  std::size_t keys;
  float* out;
  std::size_t out_ld;
};

// Sums of the same rows at several scales of the weights.
//
// sums[i * ld + c] = (sums[i * ld + c] + weights[0][i] * rows[0][c]) + .., for i < scales,
// c < columns and the rows j < count ascending, with weights[j][i] = weights[j * scales + i].
struct SumsArgs {
  double* sums;
  std::size_t ld;
  const float* const* rows;
  const double* weights;
  std::size_t scales;
  std::size_t count;
  std::size_t columns;
};

// Of x_c = max(base[c] + factor * sums[c], floors[c]), floors[c] >= 0: the sum and the sum of
// squares, as csum, and the largest.
struct ClippedSums {
  double total, squares, largest;
};

// Filters. Hits come in no particular order; a pair is a hit iff its computed score >= threshold.
// With u = 2^-24 and every intermediate finite:
//   scan_dot     score = init + sum rows*panel,      at most depth + 1 roundings on any term
//   scan_diff    score = init - sum (rows-panel)^2,  at most depth + 3 roundings on any term
//   stream_diff  score =      - sum (rows-query)^2,  at most d + 3 roundings on any term
// plus at most 2^-149 absolute error per term from underflow.
struct FilterKernels {
  std::size_t (*scan_dot)(const ScanArgs& args);
  std::size_t (*scan_diff)(const ScanArgs& args);
  std::size_t (*stream_diff)(const StreamArgs& args);
  // out = x * scale - offset (the product is exact or underflows: one rounding).
  void (*stage)(const float* x, const float* offset, float scale, float* out, std::size_t d);
  // out = float(double(x) * scale).
  void (*stage_unit)(const float* x, double scale, float* out, std::size_t d);
  // out = float(x * scale - offset): one rounding to float64 and one to float32, as scale is a
  // power of two.
  void (*stage64)(const double* x, const double* offset, double scale, float* out, std::size_t d);
  // Largest |x|, or NaN if any value is not finite.
  float (*max_abs)(const float* x, std::size_t n);
  double (*max_abs64)(const double* x, std::size_t n);
};

// Coded rows: exact integers throughout.
struct CodeKernels {
  std::size_t (*scan)(const CodeScanArgs& args);
  // v of the first query and every row, where it lies within 16 bits.
  void (*score)(const CodeScanArgs& args, std::int32_t* scores);
  // out[i] = sum row * queries[i], i < count, n a multiple of kCodeStep; the caller sees to it that
  // no sum of some of the products leaves int32.
  void (*dots)(const std::int8_t* row, const std::int16_t* const* queries, std::size_t count,
               std::size_t n, std::int32_t* out);
};

// Canonical arithmetic: the bits of CONTRACT.md.
struct ExactKernels {
  double (*squared_distance)(const float* q, const float* x, std::size_t d);
  // out[i] = squared_distance(q[i], x[i], d), i < count.
  void (*squared_distances)(const float* const* q, const float* const* x, std::size_t count,
                            std::size_t d, double* out);
  double (*squared_distance64)(const double* q, const double* x, std::size_t d);
  double (*dot)(const float* q, const float* x, std::size_t d);
  double (*dot64)(const double* q, const double* x, std::size_t d);
  double (*csum)(const double* terms, std::size_t n);
  void (*exp)(double* x, std::size_t n);  // in place
  void (*log)(double* x, std::size_t n);  // in place, x >= 2^-1022
  void (*softmax)(const float* logits, double temperature, double* out, std::size_t n);
};

// Weighted sums of residuals and what becomes of them, to the bits of CONTRACT.md as well.
struct SumKernels {
  // The weights, not divided by their sum, of count >= 1 neighbours at these distances; returns it.
  double (*neighbour_weights)(const double* distances, std::size_t count, double sigma,
                              double* out);
  // out[c] = (out[c] + weights[0] * rows[0][c]) + .., j ascending, multiply then add.
  // `rows` holds count + kRowsAhead pointers; the further ones are only prefetched.
  void (*weighted_sum)(double* out, const float* const* rows, const double* weights,
                       std::size_t count, std::size_t columns);
  void (*weighted_sums)(const SumsArgs& args);
  // n is a multiple of kPartials.
  ClippedSums (*clipped_sums)(const double* base, const double* sums, const double* floors,
                              double factor, std::size_t n);
  // out[f]: the total of clipped_sums for factors[f], f < count.
  void (*clipped_totals)(const double* base, const double* sums, const double* floors,
                         const double* factors, std::size_t count, std::size_t n, double* out);
  // The shift of a projection of x, padded with -inf to a multiple n of kPartials, onto `mass`.
  double (*projection_shift)(const double* x, std::size_t n, double mass);
  void (*head_logits)(const HeadArgs& args);
};

// Numbers half as wide. Widening is exact; narrowing rounds to nearest even, to infinity beyond
// the largest number. NaN stays NaN.
struct NumberKernels {
  void (*widen_float16)(const std::uint16_t* x, float* out, std::size_t n);
  void (*widen_bfloat16)(const std::uint16_t* x, float* out, std::size_t n);
  void (*narrow_float16)(const float* x, std::uint16_t* out, std::size_t n);
  void (*narrow_bfloat16)(const float* x, std::uint16_t* out, std::size_t n);
};

struct KernelTable {
  const char* name;
  bool emulated;              // executed through an emulation header, not by the CPU itself
  std::uint32_t query_lanes;  // NR <= kMaxQueryLanes
  std::uint32_t row_step;     // common multiple of the tiles' MR
  std::uint32_t head_keys;    // keys of a panel of HeadArgs
  FilterKernels filter;
  CodeKernels codes;
  ExactKernels exact;
  SumKernels sums;
  NumberKernels numbers;
};

// One definition per object file that the build compiles.
const KernelTable& scalar_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
const KernelTable& avx512vnni_kernels();
const KernelTable& neon_kernels();
const KernelTable& neon_dotprod_kernels();

}  // namespace resmem
