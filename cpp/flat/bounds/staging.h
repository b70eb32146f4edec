// Staging makes rows and queries the float32 vectors that the tiles read.
//
// A staged vector is x * scale - offset, with `scale` a power of two, or a multiple of x. Of
// float32 numbers that is one rounding, |error| <= u|x^|, and eta where the product underflows.
//
// Float64 keys. Staging rounds to float64 and then to float32: |error| <= u' |x^| and eta, with
// u' = u (1 + 2^-20) >= u + 2v + uv. Scales lie within 2^-480 and 2^400, so that what underflows in
// the staging or in canonical sums (2^-1074 a term, times at most 2^801) is below 2^-270 d, which
// the slack of every filter's `a` covers: at most half of it is used for float32. Values are below
// 2^480, so that nothing overflows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "filter_bounds.h"

namespace resmem {

inline constexpr double kStagedGuard = 1 + 0x1p-20;
inline constexpr double kStagedWide = kU * kStagedGuard;  // u' above

// What a row's score is made of: the part of t that depends on the row alone (the score before any
// product), and how far a score of the row can be off.
struct RowScore {
  double base, error;
};

class Staging {
 public:
  // The scale is 1 at first, and there is no offset.
  Staging(const SearchRequest& request, const KernelTable& kernels);

  // Chooses the scale that brings numbers up to `largest` into [-1, 1].
  void scale_by(double largest);
  // Makes the mean of some rows the offset. Any offset is valid, but a central one makes staged
  // rows short, and so their errors small.
  void centre(const SearchRequest& request);

  bool wide() const { return wide_; }
  double scale() const { return scale_; }
  const std::vector<double>& offset() const { return offset_; }
  // Returns the relative error of a staged coordinate, u or u'.
  double rounding() const { return wide_ ? kStagedWide : kU; }

  void place(const float* x, float* staged) const {
    kernels_.filter.stage(x, offset32_.data(), static_cast<float>(scale_), staged, d_);
  }
  void place(const double* x, float* staged) const {
    kernels_.filter.stage64(x, offset_.data(), scale_, staged, d_);
  }
  // Places x times any factor.
  void place_multiple(const float* x, double factor, float* staged) const {
    kernels_.filter.stage_unit(x, factor, staged, d_);
  }
  void place_multiple(const double* x, double factor, float* staged) const {
    kernels_.filter.stage64(x, zeros_.data(), factor, staged, d_);
  }
  double dot(const float* a, const float* b) const { return kernels_.exact.dot(a, b, d_); }
  double dot(const double* a, const double* b) const { return kernels_.exact.dot64(a, b, d_); }

  // Calls stage(row, staged), which returns a RowScore, for each row as float or double.
  template <class Stage>
  void rows(RowReader& reader, const Segment& segment, std::size_t first, std::size_t count,
            const StagedRows& out, const Stage& stage) const {
    for (std::size_t r = 0; r < count; ++r) {
      float* staged = out.rows + r * out.ld;
      const RowScore row = wide_ ? stage(reader.wide_rows(segment, first + r), staged)
                                 : stage(reader.rows(segment, first + r, 1), staged);
      std::fill(staged + d_, staged + out.ld, 0.0F);
      out.init[r] = round_up(row.base + row.error);
      out.spread[r] = round_up(static_cast<double>(out.init[r]) - row.base + row.error);
    }
  }
  // Calls stage(query), which returns a StagedQuery, with the query as float or double.
  template <class Stage>
  StagedQuery query(const SearchRequest& request, std::size_t query, const Stage& stage) const {
    return wide_ ? stage(request.queries64 + query * d_) : stage(request.queries + query * d_);
  }
  // Places a query of a Euclidean metric and sets its key_scale and its square, which both filters
  // of these metrics need.
  StagedQuery euclidean_query(const SearchRequest& request, std::size_t query, float* staged) const;

 private:
  const KernelTable& kernels_;
  std::size_t d_;
  bool wide_;                    // rows and queries are float64
  double scale_ = 1;             // a power of two, and for float32 keys a float32 number
  std::vector<double> offset_;   // of scaled numbers
  std::vector<float> offset32_;  // the same for float32 keys
  std::vector<double> zeros_;    // the offset of place_multiple() for float64 keys
};

// Returns the largest |value| of all rows.
double largest_of_rows(const SearchRequest& request);
// Returns what both filters of the Euclidean metrics scale by.
inline double largest_of_all(const SearchRequest& request) {
  return std::max(largest_of_rows(request), request.queries_max_abs);
}

}  // namespace resmem
