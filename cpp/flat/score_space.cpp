#include "score_space.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../base/rounding.h"

// Derivation of the brackets
// ==========================
// Notation: u = 2^-24 (float32 rounding), v = 2^-53 (float64), eta = 2^-149 (the largest
// error of a float32 operation that underflows), g(n) = n u / (1 - n u), h(n) = n v / (1 - n v)
// (Higham: n roundings change a sum of terms by at most g(n) times the sum of their sizes).
// x^ and q^ are the staged vectors, X = |x^|^2, Q = |q^|^2, S = scale^2 s the scaled canonical
// squared distance before its own rounding, theta = h(ceil(d/8) + 6) that rounding: three on a
// squared difference, at most ceil(d/8) in its partial sum, three in the tree. Canonical dot
// products take fewer, since a product of two float32 values is exact in float64.
//
// 1. Euclidean, dot filter. score = init + sum x^ q^, init = -X/2 + E_x; t = (Q - S~)/2 with
//    S~ the rounded S. Staging: x^ = x*scale - offset with one rounding, |error| <= u|x^|, and
//    eta where the product underflows; so with N = |x^| + |q^|, the staged difference misses
//    the true one by a vector of norm <= u N + 2 eta sqrt(d), and half its square by
//        N (u N + 2 eta sqrt d) + (u N + 2 eta sqrt d)^2 / 2
//          <= u(1+u) N^2 + eta d + (terms of eta X, eta Q below v X, v Q),
//        N^2 <= 2 (X + Q).
//    Summation: at most d + 1 roundings: g(d+1) (|init| + sum |x^ q^|) <= g(d+1) (X + Q/2),
//    because 0 <= E_x <= X/2 makes |init| <= X/2, and 2|x^ q^| <= x^^2 + q^^2; d eta underflow.
//    Canonical rounding: theta S/2 <= theta (1+u)^2 N^2/2 <= theta (1+4u) (X + Q).
//    X and Q are computed in float64: theta X/2 more. Separated into a part of the row and a
//    part of the query (this is why sum |x^ q^| was split so):
//        E_x = [g(d+1) + 2u(1+u) + theta (2+4u)] X + a,   E_q likewise with g(d+1)/2 and Q,
//        a = 4 (d+1) eta.
//    g(d+1) <= 1/16 for d <= 2^19 keeps E_x below X/2.
//
// 2. Inner product. Rows scaled by one power of two to |x_i| <= 1, each query by its own to
//    |q^| <= 1 (the order of its rows does not change). score = E_x + sum x^ q^, t the scaled
//    canonical dot. Staging errs only by underflow: eta (sqrt d |q^| + sqrt d |x^|) + d eta^2
//    <= 3 d eta. Summation: g(d+1) (E_x + |x^| |q^|) with E_x <= |x^|/8:
//        E_x = |x^| [9/8 g(d+1) + 2 theta] + a,   E_q = a.
//
// 3. Cosine. x^ = float(x / |x|): |error| <= w |x^_i| + eta, w = u + 2 theta (the float64 norm,
//    its root, quotient and product stay within theta each way). |x^|, |q^| <= 1 + 2w:
//        E_x = 9/8 g(d+1) (1+2w)^2 + 2w (1+2w) + 4 theta + a,   E_q = a;
//    4 theta is the canonical similarity's own rounding: theta in the dot, theta/2 in each
//    norm, four single roundings (4v <= theta) and the second order. Clamping at 0 only moves
//    the rounded distance towards the true one. A zero vector has score E_x: t = 0.
//
// 4. Euclidean, difference filter. score = -sum (x^ - q^)^2, t = -S~. Every term carries at
//    most d + 3 roundings, all relative: |score| = S (1 +- g(d+3)) +- a; with the canonical
//    rounding, rho = g(d+3) + 2 theta: (1+g)/(1-theta) <= 1 + g + 2 theta as g <= 1/16.
//    Staging is a power of two: exact but for underflow, which moves S by at most
//    8 d eta (|x^_i|, |q^_i| <= 1); a = 10 (d+1) eta with the products' own underflow.
//
// Float64 keys. Staging rounds to float64 and then to float32: |error| <= u' |x^| and eta, with
// u' = u (1 + 2^-20) >= u + 2v + uv. Scales lie within 2^-480 and 2^400, so that what underflows in
// the staging or in canonical sums (2^-1074 a term, times at most 2^801) is below 2^-270 d, which
// the slack of every `a` covers: at most half of it is used above. Values are below 2^480, so that
// nothing overflows.
//   1. u' in place of u in the staging.
//   2. Staging rounds now: |q^ x^ - q~ x~| <= u' (2 + u') |x~| |q~| for the exact scaled x~, q~
//   with
//      |q~| <= 1 + theta and |x~| <= |x^| / (1 - u'): 2 u' |x^| more, and kStagedGuard = 1 + 2^-20
//      for all of this and for |q^| <= 1 + u + theta.
//   3. As before: the rounding of the product x * (1 / |x|) was counted. Vectors come scaled by
//      powers of two, their largest |value| in [1/2, 1), so that no square underflows that counts.
//   4. Staging rounds now, about a central offset o: |x^ - x~| <= u' |x~| + eta sqrt d, where
//      |x~_i| <= 1 + |o_i|. The staged difference misses the true one by a vector no longer than
//          blur = u' (sqrt(sum (1 + |o_i|)^2) + |q^|) + 2 eta sqrt d, times kStagedGuard,
//      so |sqrt(S) - sqrt(S^)| <= blur where |score| = S^ (1 +- g(d+3)) +- a. Of k rows with scores
//      of at least `low`, none has a root above sqrt((|low| + a) / (1 - rho)) + blur; a row as near
//      as these has a staged root at most another blur larger.
//
// The constants are evaluated in float64 with fewer than 16 roundings each; kGuard covers them.

namespace resmem {
namespace {

constexpr double kGuard = 1 + 16 * kV;
constexpr double kStagedGuard = 1 + 0x1p-20, kStagedWide = kU * kStagedGuard;  // u' above

// The power of two that brings `largest` into (1/2, 1], within 2^-most and 2^most.
double unit_scale(double largest, int most) {
  if (!(largest > 0)) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::clamp(-exponent, -most, most));
}
constexpr int kMostFloatScale = 126, kMostDoubleScale = 480;

// The mean of some rows, evenly spaced: any offset is valid, a central one makes X small.
std::vector<double> central_offset(const SearchRequest& request, double scale,
                                   const KernelTable& kernels) {
  constexpr std::size_t kSample = 256;
  std::size_t total = 0;
  for (const Segment& segment : request.segments) total += segment.n;
  std::vector<double> sum(request.d);
  std::vector<float> scratch(request.d);
  const std::size_t step = std::max<std::size_t>(1, total / kSample);
  std::size_t start = 0, taken = 0;
  const auto add = [&](const auto* row) {
    for (std::size_t i = 0; i < request.d; ++i) sum[i] += static_cast<double>(row[i]);
  };
  for (const Segment& segment : request.segments) {
    for (std::size_t r = (start + step - 1) / step * step; r < start + segment.n;
         r += step, ++taken) {
      const std::size_t first = (r - start) * request.d;
      if (request.wide())
        add(segment.keys.wide(first));
      else
        add(segment.keys.read(first, request.d, scratch.data(), kernels));
    }
    start += segment.n;
  }
  std::vector<double> offset(request.d);
  for (std::size_t i = 0; i < request.d && taken > 0; ++i) {
    const double mean = sum[i] / static_cast<double>(taken) * scale;
    if (!(std::fabs(mean) <= 4)) continue;  // a damaged row
    offset[i] = request.wide() ? mean : static_cast<double>(static_cast<float>(mean));
  }
  return offset;
}

}  // namespace

ScoreSpace::ScoreSpace(const SearchRequest& request, FilterKind filter, bool raw,
                       const KernelTable& kernels)
    : kernels_(kernels),
      euclidean_(request.metric == Metric::euclidean || request.metric == Metric::sqeuclidean),
      cosine_(request.metric == Metric::cosine),
      filter_(filter),
      d_(request.d),
      offset_(request.d) {
  double rows_max = 0;
  for (const Segment& segment : request.segments) rows_max = std::max(rows_max, segment.max_abs);
  if (!cosine_ && !raw)
    scale_ = unit_scale(euclidean_ ? std::max(rows_max, request.queries_max_abs) : rows_max,
                        request.wide() ? kMostDoubleScale : kMostFloatScale);

  const auto d = static_cast<double>(d_);
  const double g = roundings(d + 1, kU), theta = canonical_rounding(d_);
  const double staged = request.wide() ? kStagedWide : kU;
  absolute_ = 4 * (d + 1) * kEta;
  if (filter_ == FilterKind::difference) {
    rho_ = (roundings(d + 3, kU) + 2 * theta) * kGuard;
    absolute_ = 10 * (d + 1) * kEta;
    if (request.wide()) {
      offset_ = central_offset(request, scale_, kernels_);
      double square = 0;
      for (const double o : offset_) square += (1 + std::fabs(o)) * (1 + std::fabs(o));
      rows_blur_ = (staged * std::sqrt(square) + 2 * std::sqrt(d) * kEta) * kStagedGuard;
    }
  } else if (euclidean_) {
    offset_ = central_offset(request, scale_, kernels_);
    row_relative_ = (g + 2 * staged * (1 + staged) + theta * (2 + 4 * kU)) * kGuard;
    query_relative_ = (g / 2 + 2 * staged * (1 + staged) + theta * (2 + 4 * kU)) * kGuard;
  } else if (cosine_) {
    const double w = kU + 2 * theta, norm = 1 + 2 * w;
    row_relative_ = (9.0 / 8 * g * norm * norm + 2 * w * norm + 4 * theta) * kGuard;
  } else {
    row_relative_ = (9.0 / 8 * g + 2 * theta) * kGuard;
    if (request.wide()) row_relative_ = (row_relative_ + 2 * staged) * kStagedGuard;
  }
  if (request.wide())
    zeros_.resize(d_);
  else
    offset32_.assign(offset_.begin(), offset_.end());
}

void ScoreSpace::place(const float* x, float* staged) const {
  kernels_.filter.stage(x, offset32_.data(), static_cast<float>(scale_), staged, d_);
}
void ScoreSpace::place(const double* x, float* staged) const {
  kernels_.filter.stage64(x, offset_.data(), scale_, staged, d_);
}
void ScoreSpace::place_unit(const float* x, double scale, float* staged) const {
  kernels_.filter.stage_unit(x, scale, staged, d_);
}
void ScoreSpace::place_unit(const double* x, double scale, float* staged) const {
  kernels_.filter.stage64(x, zeros_.data(), scale, staged, d_);
}

template <class T>
void ScoreSpace::stage_row(const T* row, std::size_t ld, float* staged, float* init,
                           float* spread) const {
  double base = 0, error = 0;
  if (cosine_) {
    const double square = dot(row, row);
    place_unit(row, square > 0 ? 1 / std::sqrt(square) : 0, staged);
    error = row_relative_ + absolute_;
  } else {
    place(row, staged);
    if (filter_ == FilterKind::dot) {
      const double square = dot(staged, staged);
      if (euclidean_) base = -square / 2;
      error = row_relative_ * (euclidean_ ? square : std::sqrt(square)) + absolute_;
    }
  }
  std::fill(staged + d_, staged + ld, 0.0F);
  *init = round_up(base + error);
  *spread = round_up(static_cast<double>(*init) - base + error);
}

template void ScoreSpace::stage_row(const float*, std::size_t, float*, float*, float*) const;
template void ScoreSpace::stage_row(const double*, std::size_t, float*, float*, float*) const;

StagedQuery ScoreSpace::stage_query(const SearchRequest& request, std::size_t query,
                                    float* staged) const {
  const std::size_t first = query * d_;
  return request.wide() ? stage(request.queries64 + first, staged)
                        : stage(request.queries + first, staged);
}

template <class T>
StagedQuery ScoreSpace::stage(const T* query, float* staged) const {
  StagedQuery result;
  result.slack = absolute_;
  if (euclidean_) {
    place(query, staged);
    result.key_scale = scale_ * scale_;
    result.square = dot(staged, staged);
    if (filter_ == FilterKind::dot) result.slack += query_relative_ * result.square;
    if (rows_blur_ > 0)
      result.blur = rows_blur_ + kStagedWide * std::sqrt(result.square) * kStagedGuard;
    return result;
  }
  const double norm = std::sqrt(dot(query, query));
  double scale = 0;
  if (norm > 0) {
    int exponent = 0;
    std::frexp(norm, &exponent);
    scale = cosine_ ? 1 / norm : std::ldexp(1.0, -exponent);
    if (!cosine_) result.key_scale = scale * scale_;
  }
  place_unit(query, scale, staged);
  return result;
}

float ScoreSpace::threshold(float low, const StagedQuery& query) const {
  const auto end = static_cast<double>(low);
  if (filter_ == FilterKind::dot) return round_down((end - 2 * query.slack) - kGuard * kEta);
  if (query.blur == 0)
    return round_down(((end - absolute_) * ((1 + rho_) / (1 - rho_)) - absolute_) * kGuard);
  const double root = std::sqrt((absolute_ - end) / (1 - rho_)) + 2 * query.blur;
  return round_down(-(root * root * (1 + rho_) + absolute_) * kGuard);
}

double ScoreSpace::exact_score(double key, const StagedQuery& query) const {
  return cosine_ ? 1 - key : -key * query.key_scale;
}

float ScoreSpace::lower_end_of_key(double key, const StagedQuery& query) const {
  return round_down(exact_score(key, query));
}

float ScoreSpace::upper_end_of_key(double key, const StagedQuery& query) const {
  return round_up(exact_score(key, query));
}

float ScoreSpace::threshold_of_key(double key, const StagedQuery& query) const {
  const double t = exact_score(key, query);
  if (filter_ == FilterKind::dot) return round_down(t - query.slack);
  if (query.blur == 0) return round_down((t * (1 + rho_) - absolute_) * kGuard);
  const double root = std::sqrt(-t) + query.blur;
  return round_down(-(root * root * (1 + rho_) + absolute_) * kGuard);
}

void ScoreSpace::key_bracket(float score, float spread, const StagedQuery& query, double* low,
                             double* high) const {
  const auto value = static_cast<double>(score);
  if (filter_ == FilterKind::difference) {
    const double least = std::sqrt(std::max(0.0, -value - absolute_) / (1 + rho_));
    const double most = std::sqrt((-value + absolute_) / (1 - rho_));
    const auto key = [&](double root) { return root * root / query.key_scale; };
    *low = key(std::max(0.0, least - query.blur)) * (1 - 8 * kV);
    *high = key(most + query.blur) * kGuard;
    return;
  }
  const double top = value + query.slack;
  const double bottom = value - static_cast<double>(spread) - query.slack;
  const auto key = [&](double t) {
    if (euclidean_) return (query.square - 2 * t) / query.key_scale;
    return cosine_ ? 1 - t : -t / query.key_scale;
  };
  *low = key(top);
  *high = key(bottom);
}

}  // namespace resmem
