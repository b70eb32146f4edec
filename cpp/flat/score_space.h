// Scores: what the float32 tiles compute, and how they bracket the canonical order.
//
// Every filter computes, for a row x and a query q, a float32 *score* that grows as x comes
// closer. To each filter belongs an exact score t(x, q), an increasing function of the
// canonical order (of -s, the dot product or the similarity), and a proven bracket:
//
//     dot filters         score - spread(x) - slack(q)  <=  t  <=  score + slack(q)
//     difference filter   -(|score| + a) / (1 - rho)    <=  t  <=  -(|score| - a) / (1 + rho)
//
// (where staged rows are rounded, roots of -t are off by a blur besides).
// A row may be dropped as soon as its upper end is below the k-th largest lower end.
// score_space.cpp derives every constant.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "../kernels/table.h"
#include "request.h"

namespace resmem {

struct StagedQuery {
  double slack = 0;      // see above
  double key_scale = 1;  // t per unit of the canonical key
  double square = 0;     // Q = |staged|^2 (Euclidean dot filter)
  double blur = 0;       // of the root of a staged squared distance (float64, difference filter)
};

class ScoreSpace {
 public:
  // The difference filter serves the Euclidean metrics only. `raw`: the kernel reads queries
  // and rows as they are (stream_diff), so that scores are not scaled.
  ScoreSpace(const SearchRequest& request, FilterKind filter, bool raw, const KernelTable& kernels);

  // Whether the bounds hold at this depth; if not, the exact path answers.
  static bool certifiable(std::size_t d) { return d <= (std::size_t{1} << 19); }
  // The same of float64 numbers of which this is the largest.
  static bool certifiable_wide(double largest) { return largest >= 0x1p-400 && largest <= 0x1p480; }

  FilterKind filter() const { return filter_; }
  // Whether a canonical key can be placed among the scores closely enough to thin a crowded
  // buffer by exact distances. The Euclidean dot filter cannot: its scores leave out |q|^2.
  bool places_keys() const { return !euclidean_ || filter_ == FilterKind::difference; }

  // Stages a row, padded with zeros to ld; sets its init and spread.
  template <class T>  // float or double
  void stage_row(const T* row, std::size_t ld, float* staged, float* init, float* spread) const;
  StagedQuery stage_query(const SearchRequest& request, std::size_t query, float* staged) const;

  // The lower end of a score, slack left out.
  static float lower_end(float score, float spread) {
    const float end = score - spread;        // rounded: at most u|end| off, exact if subnormal
    return end - std::fabs(end) * 0x1p-22F;  // 4u|end| lower, less u|end| of its own rounding
  }
  // What a score must reach when the k-th largest lower end is `low`.
  float threshold(float low, const StagedQuery& query) const;
  // The same three for a canonical key in place of a computed score (if places_keys()).
  float lower_end_of_key(double key, const StagedQuery& query) const;
  float upper_end_of_key(double key, const StagedQuery& query) const;
  float threshold_of_key(double key, const StagedQuery& query) const;

  // The bracket of the canonical key itself that a score stands for (tests probe it).
  void key_bracket(float score, float spread, const StagedQuery& query, double* low,
                   double* high) const;

 private:
  double exact_score(double key, const StagedQuery& query) const;
  template <class T>
  StagedQuery stage(const T* query, float* staged) const;
  void place(const float* x, float* staged) const;
  void place(const double* x, float* staged) const;
  void place_unit(const float* x, double scale, float* staged) const;
  void place_unit(const double* x, double scale, float* staged) const;
  double dot(const float* a, const float* b) const { return kernels_.exact.dot(a, b, d_); }
  double dot(const double* a, const double* b) const { return kernels_.exact.dot64(a, b, d_); }

  const KernelTable& kernels_;
  bool euclidean_, cosine_;
  FilterKind filter_;
  std::size_t d_;
  double scale_ = 1;             // a power of two, of float32 keys a float32 one
  std::vector<double> offset_;   // staged = x * scale - offset
  std::vector<float> offset32_;  // the same for float32 keys
  std::vector<double> zeros_;    // no offset
  double row_relative_ = 0;      // of the squared norm (Euclidean), the norm (inner product) or 1
  double query_relative_ = 0;    // of the squared norm (Euclidean)
  double absolute_ = 0;
  double rho_ = 0;
  double rows_blur_ = 0;  // StagedQuery::blur, the rows' part
};

}  // namespace resmem
