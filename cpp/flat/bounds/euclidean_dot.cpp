// This is the dot filter of the Euclidean metrics.
//
// score = init + sum x^ q^ with init = -X/2 + E_x, and t = (Q - S~)/2 with S~ the rounded S.
//
// Staging: x^ = x*scale - offset with one rounding, |error| <= u|x^|, and eta where the product
// underflows; so with N = |x^| + |q^|, the staged difference misses the true one by a vector of
// norm <= u N + 2 eta sqrt(d), and half its square by
//     N (u N + 2 eta sqrt d) + (u N + 2 eta sqrt d)^2 / 2
//       <= u(1+u) N^2 + eta d + (terms of eta X, eta Q below v X, v Q),
//     N^2 <= 2 (X + Q).
// Summation: there are at most d + 1 roundings, which change a score by at most
//     g(d+1) (|init| + sum |x^ q^|) <= g(d+1) (X + Q/2),
// because 0 <= E_x <= X/2 makes |init| <= X/2, and 2|x^ q^| <= x^^2 + q^^2; d eta underflow.
// Canonical rounding: theta S/2 <= theta (1+u)^2 N^2/2 <= theta (1+4u) (X + Q).
// X and Q are computed in float64, which adds theta X/2.
//
// All this separates into a part of the row and a part of the query, for which sum |x^ q^| was
// split:
//     E_x = [g(d+1) + 2u(1+u) + theta (2+4u)] X + a,   slack(q) likewise with g(d+1)/2 and Q,
//     a = 4 (d+1) eta.
// g(d+1) <= 1/16 for d <= 2^19 keeps E_x below X/2. The spread is twice E_x, as init carries one.
//
// Float64 keys: u' takes the place of u in the staging.
#include "dot_bounds.h"
#include "filters.h"
#include "staging.h"

namespace resmem {
namespace {

class EuclideanDotBounds final : public DotBounds {
 public:
  EuclideanDotBounds(const SearchRequest& request, const KernelTable& kernels)
      : staging_(request, kernels) {
    staging_.scale_by(largest_of_all(request));
    staging_.centre(request);
    const auto d = static_cast<double>(request.d);
    const double g = roundings(d + 1, kU), theta = canonical_rounding(request.d);
    const double staged = staging_.rounding();
    absolute_ = 4 * (d + 1) * kEta;
    row_relative_ = (g + 2 * staged * (1 + staged) + theta * (2 + 4 * kU)) * kGuard;
    query_relative_ = (g / 2 + 2 * staged * (1 + staged) + theta * (2 + 4 * kU)) * kGuard;
  }

  void stage_rows(RowReader& reader, const Segment& segment, std::size_t first, std::size_t count,
                  const StagedRows& out) const override {
    staging_.rows(reader, segment, first, count, out, [&](const auto* row, float* staged) {
      staging_.place(row, staged);
      const double square = staging_.dot(staged, staged);
      return RowScore{-square / 2, row_relative_ * square + absolute_};
    });
  }

  StagedQuery stage_query(const SearchRequest& request, std::size_t query,
                          float* staged) const override {
    StagedQuery result = staging_.euclidean_query(request, query, staged);
    result.slack = absolute_ + query_relative_ * result.square;
    return result;
  }

 private:
  double key_of(double t, const StagedQuery& query) const override {
    return (query.square - 2 * t) / query.key_scale;
  }

  Staging staging_;
  double row_relative_ = 0, query_relative_ = 0;  // of X and of Q
  double absolute_ = 0;                           // a
};

}  // namespace

FilterBoundsPtr euclidean_dot_bounds(const SearchRequest& request, const KernelTable& kernels) {
  return std::make_unique<EuclideanDotBounds>(request, kernels);
}

}  // namespace resmem
