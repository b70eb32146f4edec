// This is the dot filter of inner products.
//
// Rows are scaled by one power of two to |x_i| <= 1, each query by its own to |q^| <= 1 (the order
// of its rows does not change). score = E_x + sum x^ q^, and t is the scaled canonical dot.
//
// Staging errs only by underflow: eta (sqrt d |q^| + sqrt d |x^|) + d eta^2 <= 3 d eta.
// Summation: g(d+1) (E_x + |x^| |q^|) with E_x <= |x^|/8:
//     E_x = |x^| [9/8 g(d+1) + 2 theta] + a,   slack(q) = a,   a = 4 (d+1) eta.
//
// Float64 keys: staging rounds now. |q^ x^ - q~ x~| <= u' (2 + u') |x~| |q~| for the exact scaled
// x~, q~ with |q~| <= 1 + theta and |x~| <= |x^| / (1 - u'): 2 u' |x^| more, and kStagedGuard =
// 1 + 2^-20 for all of this and for |q^| <= 1 + u + theta.
#include "dot_bounds.h"
#include "filters.h"
#include "staging.h"

namespace resmem {
namespace {

class InnerProductBounds final : public KeyedDotBounds {
 public:
  InnerProductBounds(const SearchRequest& request, const KernelTable& kernels)
      : staging_(request, kernels) {
    staging_.scale_by(largest_of_rows(request));
    const auto d = static_cast<double>(request.d);
    const double g = roundings(d + 1, kU), theta = canonical_rounding(request.d);
    absolute_ = 4 * (d + 1) * kEta;
    row_relative_ = (9.0 / 8 * g + 2 * theta) * kGuard;
    if (staging_.wide()) row_relative_ = (row_relative_ + 2 * staging_.rounding()) * kStagedGuard;
  }

  void stage_rows(RowReader& reader, const Segment& segment, std::size_t first, std::size_t count,
                  const StagedRows& out) const override {
    staging_.rows(reader, segment, first, count, out, [&](const auto* row, float* staged) {
      staging_.place(row, staged);
      const double square = staging_.dot(staged, staged);
      return RowScore{0, row_relative_ * std::sqrt(square) + absolute_};
    });
  }

  StagedQuery stage_query(const SearchRequest& request, std::size_t query,
                          float* staged) const override {
    return staging_.query(request, query, [&](const auto* q) {
      StagedQuery result;
      result.slack = absolute_;
      const double norm = std::sqrt(staging_.dot(q, q));
      double scale = 0;
      if (norm > 0) {
        int exponent = 0;
        std::frexp(norm, &exponent);
        scale = std::ldexp(1.0, -exponent);
        result.key_scale = scale * staging_.scale();
      }
      staging_.place_multiple(q, scale, staged);
      return result;
    });
  }

 private:
  double key_of(double t, const StagedQuery& query) const override { return -t / query.key_scale; }

  Staging staging_;
  double row_relative_ = 0;  // of |x^|
  double absolute_ = 0;      // a
};

}  // namespace

FilterBoundsPtr inner_product_bounds(const SearchRequest& request, const KernelTable& kernels) {
  return std::make_unique<InnerProductBounds>(request, kernels);
}

}  // namespace resmem
