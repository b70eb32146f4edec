// This is the dot filter of cosine similarity.
//
// x^ = float(x / |x|): |error| <= w |x^_i| + eta, w = u + 2 theta (the float64 norm, its root,
// quotient and product stay within theta each way). score = E_x + sum x^ q^, and t is the canonical
// similarity. |x^|, |q^| <= 1 + 2w:
//     E_x = 9/8 g(d+1) (1+2w)^2 + 2w (1+2w) + 4 theta + a,   slack(q) = a,   a = 4 (d+1) eta;
// 4 theta is the canonical similarity's own rounding: theta in the dot, theta/2 in each norm, four
// single roundings (4v <= theta) and the second order. Clamping at 0 only moves the rounded
// distance towards the true one. A zero vector has score E_x: t = 0.
//
// Float64 keys: as before, since the rounding of the product x * (1 / |x|) was counted. Vectors
// come scaled by powers of two, their largest |value| in [1/2, 1), so that no square underflows
// that counts.
#include "dot_bounds.h"
#include "filters.h"
#include "staging.h"

namespace resmem {
namespace {

class CosineBounds final : public KeyedDotBounds {
 public:
  CosineBounds(const SearchRequest& request, const KernelTable& kernels)
      : staging_(request, kernels) {
    const auto d = static_cast<double>(request.d);
    const double g = roundings(d + 1, kU), theta = canonical_rounding(request.d);
    const double w = kU + 2 * theta, norm = 1 + 2 * w;
    absolute_ = 4 * (d + 1) * kEta;
    row_error_ = (9.0 / 8 * g * norm * norm + 2 * w * norm + 4 * theta) * kGuard + absolute_;
  }

  void stage_rows(RowReader& reader, const Segment& segment, std::size_t first, std::size_t count,
                  const StagedRows& out) const override {
    staging_.rows(reader, segment, first, count, out, [&](const auto* row, float* staged) {
      const double square = staging_.dot(row, row);
      staging_.place_multiple(row, square > 0 ? 1 / std::sqrt(square) : 0, staged);
      return RowScore{0, row_error_};
    });
  }

  StagedQuery stage_query(const SearchRequest& request, std::size_t query,
                          float* staged) const override {
    return staging_.query(request, query, [&](const auto* q) {
      StagedQuery result;
      result.slack = absolute_;
      const double norm = std::sqrt(staging_.dot(q, q));
      staging_.place_multiple(q, norm > 0 ? 1 / norm : 0, staged);
      return result;
    });
  }

  double exact_score(double key, const StagedQuery&) const override { return 1 - key; }

 private:
  double key_of(double t, const StagedQuery&) const override { return 1 - t; }

  Staging staging_;
  double row_error_ = 0;  // E_x, of every row
  double absolute_ = 0;   // a
};

}  // namespace

FilterBoundsPtr cosine_bounds(const SearchRequest& request, const KernelTable& kernels) {
  return std::make_unique<CosineBounds>(request, kernels);
}

}  // namespace resmem
