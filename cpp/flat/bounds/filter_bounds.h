// Filters: what the float32 tiles compute, and how it brackets the canonical order.
//
// Every filter computes, for a row x and a query q, a float32 *score* that grows as x comes closer.
// To each filter belongs an exact score t(x, q), an increasing function of the canonical order (of
// -s, the dot product or the similarity), and a proven bracket:
//
//     dot filters         score - spread(x) - slack(q)  <=  t  <=  score + slack(q)
//     difference filter   -(|score| + a) / (1 - rho)    <=  t  <=  -(|score| - a) / (1 + rho)
//
// (where staged rows are rounded, roots of -t are off by a blur besides). A row may be dropped as
// soon as its upper end is below the k-th largest lower end.
//
// Each filter derives its constants at the top of its own file, with this notation: u = 2^-24 is
// the rounding of float32, v = 2^-53 that of float64, eta = 2^-149 the largest error of a float32
// operation that underflows; g(n) = n u / (1 - n u) and h(n) = n v / (1 - n v) (Higham: n roundings
// change a sum of terms by at most g(n) times the sum of their sizes). x^ and q^ are the staged
// vectors, X = |x^|^2, Q = |q^|^2. S = scale^2 s is the scaled canonical squared distance before
// its own rounding, and theta = h(ceil(d/8) + 6) is that rounding: three on a squared difference,
// at most ceil(d/8) in its partial sum, three in the tree. Canonical dot products take fewer, since
// a product of two float32 values is exact in float64. staging.h adds what float64 keys need.
//
// The constants are evaluated in float64 with fewer than 16 roundings each; kGuard covers them.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>

#include "../../base/rounding.h"
#include "../../kernels/table.h"
#include "../../rows/row_set.h"
#include "../request.h"

namespace resmem {

inline constexpr double kGuard = 1 + 16 * kV;

// The numbers that a filter needs of a query. Only the filters named beside a member set and read
// it.
struct StagedQuery {
  double slack = 0;      // dot filters: see above
  double key_scale = 1;  // all: t per unit of the canonical key
  double square = 0;     // Euclidean filters: Q
  double blur = 0;       // difference filter: of the root of a staged squared distance (float64)
};

// Staged rows go here. Each is padded with zeros to ld floats.
struct StagedRows {
  float* rows;
  std::size_t ld;
  float *init, *spread;  // of each row: where its score begins, and its spread(x) above
};

// Places canonical keys among the scores, for filters whose scores tell how far a row is. A buffer
// that bounds cannot thin is then thinned by exact distances.
class KeyScores {
 public:
  virtual ~KeyScores() = default;
  // Returns the exact score t of a canonical key. It is a multiple of the key for every metric but
  // cosine.
  virtual double exact_score(double key, const StagedQuery& query) const {
    return -key * query.key_scale;
  }
  // Returns the score that a row must reach when the k-th smallest key is `key`.
  virtual float threshold_of_key(double key, const StagedQuery& query) const = 0;
  // Tells whether a k-th key of 0 settles a query whose later rows have larger ids, because no key
  // is below 0.
  virtual bool settled_by_zero() const { return false; }

  float lower_end(double key, const StagedQuery& query) const {
    return round_down(exact_score(key, query));
  }
  float upper_end(double key, const StagedQuery& query) const {
    return round_up(exact_score(key, query));
  }
};

// This is one filter of one request. It never changes once it is made, and any thread may use it.
// Its functions are called per block of rows, per query, or when a buffer is thinned, but never for
// a single pair of row and query.
class FilterBounds {
 public:
  using Kernel = std::size_t (*)(const ScanArgs&);

  virtual ~FilterBounds() = default;

  // Returns the kernel that computes the scores.
  virtual Kernel kernel(const KernelTable& kernels) const = 0;
  // Stages `count` rows of a segment that follow one another.
  virtual void stage_rows(RowReader& reader, const Segment& segment, std::size_t first,
                          std::size_t count, const StagedRows& out) const = 0;
  // Stages a query of the request into `staged` (d floats).
  virtual StagedQuery stage_query(const SearchRequest& request, std::size_t query,
                                  float* staged) const = 0;
  // Returns the score that a row must reach when the k-th largest lower end (slack left out) is
  // `low`.
  virtual float threshold(float low, const StagedQuery& query) const = 0;
  // Finds the bracket of the canonical key that a score stands for. Only tests ask.
  virtual void key_bracket(float score, float spread, const StagedQuery& query, double* low,
                           double* high) const = 0;
  // Returns null if a canonical key cannot be placed among the scores closely enough.
  virtual const KeyScores* key_scores() const { return nullptr; }

  // Returns the lower end of a score, slack left out. It is the same for every filter.
  static float lower_end(float score, float spread) {
    const float end = score - spread;        // rounded: at most u|end| off, exact if subnormal
    return end - std::fabs(end) * 0x1p-22F;  // 4u|end| lower, less u|end| of its own rounding
  }
};

// Makes the bounds of a filter for the request's metric. The difference filter serves the Euclidean
// metrics only. `raw` says that its kernel reads queries and rows as they are (stream_diff), so
// that scores are not scaled. The request must outlive what is returned.
std::unique_ptr<const FilterBounds> make_filter_bounds(const SearchRequest& request,
                                                       FilterKind filter, bool raw,
                                                       const KernelTable& kernels);

// Tells whether the bounds hold at this depth. If not, the exact path answers.
inline bool bounds_hold_at(std::size_t d) { return d <= (std::size_t{1} << 19); }
// Tells whether they hold for float64 numbers of which this is the largest.
inline bool bounds_hold_for_wide(double largest) {
  return largest >= 0x1p-400 && largest <= 0x1p480;
}

}  // namespace resmem
