// This is the difference filter of the Euclidean metrics.
//
// score = -sum (x^ - q^)^2, t = -S~ with S~ the rounded S. Every term carries at most d + 3
// roundings, all relative: |score| = S (1 +- g(d+3)) +- a; with the canonical rounding,
// rho = g(d+3) + 2 theta: (1+g)/(1-theta) <= 1 + g + 2 theta as g <= 1/16.
// Staging is a power of two: exact but for underflow, which moves S by at most 8 d eta
// (|x^_i|, |q^_i| <= 1); a = 10 (d+1) eta with the products' own underflow.
//
// Float64 keys: staging rounds now, about a central offset o: |x^ - x~| <= u' |x~| + eta sqrt d,
// where |x~_i| <= 1 + |o_i|. The staged difference misses the true one by a vector no longer than
//     blur = u' (sqrt(sum (1 + |o_i|)^2) + |q^|) + 2 eta sqrt d, times kStagedGuard,
// so |sqrt(S) - sqrt(S^)| <= blur where |score| = S^ (1 +- g(d+3)) +- a. Of k rows with scores of
// at least `low`, none has a root above sqrt((|low| + a) / (1 - rho)) + blur; a row as near as
// these has a staged root at most another blur larger.
#include "filters.h"
#include "staging.h"

namespace resmem {
namespace {

class DifferenceBounds final : public FilterBounds, public KeyScores {
 public:
  DifferenceBounds(const SearchRequest& request, const KernelTable& kernels, bool raw)
      : staging_(request, kernels) {
    if (!raw) staging_.scale_by(largest_of_all(request));
    const auto d = static_cast<double>(request.d);
    const double theta = canonical_rounding(request.d);
    rho_ = (roundings(d + 3, kU) + 2 * theta) * kGuard;
    absolute_ = 10 * (d + 1) * kEta;
    if (!staging_.wide()) return;
    staging_.centre(request);
    double square = 0;
    for (const double o : staging_.offset()) square += (1 + std::fabs(o)) * (1 + std::fabs(o));
    rows_blur_ = (staging_.rounding() * std::sqrt(square) + 2 * std::sqrt(d) * kEta) * kStagedGuard;
  }

  Kernel kernel(const KernelTable& kernels) const override { return kernels.filter.scan_diff; }

  void stage_rows(RowReader& reader, const Segment& segment, std::size_t first, std::size_t count,
                  const StagedRows& out) const override {
    staging_.rows(reader, segment, first, count, out, [&](const auto* row, float* staged) {
      staging_.place(row, staged);
      return RowScore{0, 0};
    });
  }

  StagedQuery stage_query(const SearchRequest& request, std::size_t query,
                          float* staged) const override {
    StagedQuery result = staging_.euclidean_query(request, query, staged);
    if (rows_blur_ > 0)
      result.blur = rows_blur_ + kStagedWide * std::sqrt(result.square) * kStagedGuard;
    return result;
  }

  float threshold(float low, const StagedQuery& query) const override {
    const auto end = static_cast<double>(low);
    if (query.blur == 0)
      return round_down(((end - absolute_) * ((1 + rho_) / (1 - rho_)) - absolute_) * kGuard);
    return below_root(std::sqrt((absolute_ - end) / (1 - rho_)) + 2 * query.blur);
  }

  void key_bracket(float score, float, const StagedQuery& query, double* low,
                   double* high) const override {
    const auto value = static_cast<double>(score);
    const double least = std::sqrt(std::max(0.0, -value - absolute_) / (1 + rho_));
    const double most = std::sqrt((-value + absolute_) / (1 - rho_));
    const auto key = [&](double root) { return root * root / query.key_scale; };
    *low = key(std::max(0.0, least - query.blur)) * (1 - 8 * kV);
    *high = key(most + query.blur) * kGuard;
  }

  const KeyScores* key_scores() const override { return this; }
  float threshold_of_key(double key, const StagedQuery& query) const override {
    const double t = exact_score(key, query);
    if (query.blur == 0) return round_down((t * (1 + rho_) - absolute_) * kGuard);
    return below_root(std::sqrt(-t) + query.blur);
  }
  bool settled_by_zero() const override { return true; }

 private:
  // Returns a float that no score falls below whose staged distance is at most `root`.
  float below_root(double root) const {
    return round_down(-(root * root * (1 + rho_) + absolute_) * kGuard);
  }

  Staging staging_;
  double rho_ = 0;
  double absolute_ = 0;   // a
  double rows_blur_ = 0;  // the rows' part of the blur
};

}  // namespace

FilterBoundsPtr difference_bounds(const SearchRequest& request, const KernelTable& kernels,
                                  bool raw) {
  return std::make_unique<DifferenceBounds>(request, kernels, raw);
}

}  // namespace resmem
