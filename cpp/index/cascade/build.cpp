#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

#include "../../base/rounding.h"
#include "../../flat/flat_search.h"
#include "../../residuals/head.h"
#include "cascade.h"

namespace resmem {
namespace {

constexpr std::size_t kSampleRows = 2048;  // directions and scales are found on these
constexpr std::size_t kBlockRows = 4096;

double dot(const double* a, const double* b, std::size_t n) {
  double sum[4] = {0, 0, 0, 0};
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (std::size_t j = 0; j < 4; ++j) sum[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Rows orthonormal, in order (Gram and Schmidt, twice: the second pass mends the first's rounding).
void orthonormalise(std::vector<double>& rows, std::size_t count, std::size_t d,
                    std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  for (std::size_t i = 0; i < count; ++i) {
    double* row = rows.data() + i * d;
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t j = 0; j < i; ++j) {
        const double* other = rows.data() + j * d;
        const double along = dot(row, other, d);
        for (std::size_t p = 0; p < d; ++p) row[p] -= along * other[p];
      }
      double norm = std::sqrt(dot(row, row, d));
      if (!(norm > 1e-200)) {  // nothing left of it: any other direction serves
        for (std::size_t p = 0; p < d; ++p) row[p] = normal(random);
        norm = std::sqrt(dot(row, row, d));
        pass = -1;
      }
      for (std::size_t p = 0; p < d; ++p) row[p] /= norm;
    }
  }
}

class Builder {
 public:
  Builder(const Segment& segment, std::size_t d, const CascadeShape& shape,
          const KernelTable& kernels, std::size_t threads, Interrupt& interrupt)
      : segment_(segment),
        given_d_(d),
        shape_(shape),
        kernels_(kernels),
        threads_(threads),
        interrupt_(interrupt) {}

  Cascade build() {
    result_.n = segment_.n;
    result_.points = Points{Points::ordering(shape_.metric), given_d_, longest()};
    d_ = result_.points.dimensions();
    result_.depth = shape_.depth;
    take_sample();
    find_axes();
    measure_sample();
    find_centres();
    code_projections();
    arrange();
    if (shape_.coded_rows) code_rows();
    result_.rows.own(std::move(rows_));
    result_.panels.own(std::move(panels_));
    result_.init.own(std::move(init_));
    result_.codes.own(std::move(codes_));
    result_.coded.own(std::move(coded_));
    return std::move(result_);
  }

 private:
  // Copied to `scratch`: another thread may write to the rows, and what is checked must be what is
  // used.
  const float* row(std::size_t i, float* scratch) const {
    const float* x = segment_.keys.read(i * given_d_, given_d_, scratch, kernels_);
    if (x != scratch) std::copy_n(x, given_d_, scratch);
    if (!(kernels_.filter.max_abs(scratch, given_d_) <= segment_.max_abs)) throw_changed();
    return scratch;
  }
  [[noreturn]] static void throw_uncodable() {
    throw std::invalid_argument("these rows cannot be coded");
  }
  [[noreturn]] static void throw_changed() {
    throw std::invalid_argument("a row is not what its segment says");
  }

  // The point of a row, where that lies or in `out`, and `off`, how far it can be from the exact
  // one.
  const float* point(std::size_t i, float* out, double* off, bool as_query = false) const {
    *off = 0;
    if (result_.points.metric == Metric::euclidean) return row(i, out);
    std::vector<float> scratch(given_d_);
    const float* x = row(i, scratch.data());
    return as_query ? result_.points.query(x, kernels_, out, off)
                    : result_.points.row(x, kernels_, out, off);
  }

  // No row is longer than this. Only inner products ask.
  double longest() const {
    if (shape_.metric != Metric::inner_product) return 0;
    double square = 0;
    std::mutex mutex;
    parallel_for_rows(segment_.n, given_d_, threads_, interrupt_,
                      [&](std::size_t first, std::size_t last, bool) {
                        std::vector<float> scratch(given_d_);
                        double most = 0;
                        for (std::size_t i = first; i < last; ++i) {
                          const float* x = row(i, scratch.data());
                          most = std::max(most, kernels_.exact.dot(x, x, given_d_));
                        }
                        const std::lock_guard<std::mutex> lock(mutex);
                        square = std::max(square, most);
                      });
    return std::sqrt(square) * (1 + canonical_rounding(given_d_));
  }

  // Rows at seeded places, one of every stretch of n / count.
  std::vector<std::size_t> places(std::size_t count, std::uint64_t seed) const {
    std::mt19937_64 random(seed);
    std::vector<std::size_t> found(count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t first = segment_.n * i / count, last = segment_.n * (i + 1) / count;
      found[i] = first + random() % std::max<std::size_t>(1, last - first);
    }
    return found;
  }

  void take_sample() {
    const auto chosen = places(std::min(segment_.n, kSampleRows), 1);
    Projection& map = result_.projection;
    map.d = d_;
    std::vector<double> mean(d_);
    std::vector<float> scratch(d_);
    double off;
    for (const std::size_t i : chosen) {
      const float* x = point(i, scratch.data(), &off);
      for (std::size_t p = 0; p < d_; ++p) mean[p] += static_cast<double>(x[p]);
    }
    map.offset.resize(d_);
    for (std::size_t p = 0; p < d_; ++p)
      map.offset[p] = static_cast<float>(mean[p] / static_cast<double>(chosen.size()));
    sample_.resize(chosen.size() * d_);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const float* x = point(chosen[i], scratch.data(), &off);
      for (std::size_t p = 0; p < d_; ++p)
        sample_[i * d_ + p] = static_cast<double>(x[p]) - static_cast<double>(map.offset[p]);
    }
    sample_rows_ = chosen.size();
  }

  // The leading principal directions of the sample by subspace iteration, then turned at random
  // so that codes are even. Any orthonormal rows are valid; these leave small tails.
  void find_axes() {
    Projection& map = result_.projection;
    map.has_tail = d_ > shape_.depth;
    map.axes = std::min(d_, map.has_tail ? shape_.depth - 1 : d_);
    const std::size_t m = map.axes;
    std::mt19937_64 random(2);
    std::normal_distribution<double> normal;
    std::vector<double> axes(m * d_);
    for (double& value : axes) value = normal(random);
    orthonormalise(axes, m, d_, random);
    for (int round = 0; map.has_tail && round < 3; ++round) {
      axes = through_covariance(axes, m);
      orthonormalise(axes, m, d_, random);
    }
    std::vector<double> turn(m * m);
    for (double& value : turn) value = normal(random);
    orthonormalise(turn, m, m, random);
    map.weight.assign(m * d_, 0.0F);
    map.bias.resize(m);
    map.origin.resize(m);
    std::vector<double> turned(d_);
    for (std::size_t c = 0; c < m; ++c) {
      std::fill(turned.begin(), turned.end(), 0.0);
      for (std::size_t j = 0; j < m; ++j)
        for (std::size_t p = 0; p < d_; ++p) turned[p] += turn[c * m + j] * axes[j * d_ + p];
      for (std::size_t p = 0; p < d_; ++p) map.weight[c * d_ + p] = static_cast<float>(turned[p]);
      const double at_offset = kernels_.exact.dot(&map.weight[c * d_], map.offset.data(), d_);
      map.bias[c] = static_cast<float>(-at_offset);
      map.origin[c] = at_offset + static_cast<double>(map.bias[c]);
    }
    measure_departure();
  }

  std::vector<double> through_covariance(const std::vector<double>& axes, std::size_t m) {
    std::vector<double> along(sample_rows_ * m), next(m * d_);
    parallel_for_rows(sample_rows_, m * d_, threads_, interrupt_,
                      [&](std::size_t first, std::size_t last, bool) {
                        for (std::size_t i = first; i < last; ++i)
                          for (std::size_t c = 0; c < m; ++c)
                            along[i * m + c] = dot(&sample_[i * d_], &axes[c * d_], d_);
                      });
    parallel_for_rows(m, sample_rows_ * d_, threads_, interrupt_,
                      [&](std::size_t first, std::size_t last, bool) {
                        for (std::size_t c = first; c < last; ++c)
                          for (std::size_t i = 0; i < sample_rows_; ++i)
                            for (std::size_t p = 0; p < d_; ++p)
                              next[c * d_ + p] += along[i * m + c] * sample_[i * d_ + p];
                      });
    return next;
  }

  void measure_departure() {
    Projection& map = result_.projection;
    double sum = 0;
    for (std::size_t a = 0; a < map.axes; ++a)
      for (std::size_t b = 0; b <= a; ++b) {
        const double off =
            kernels_.exact.dot(&map.weight[a * d_], &map.weight[b * d_], d_) - (a == b ? 1 : 0);
        sum += (a == b ? 1 : 2) * off * off;
      }
    const auto m = static_cast<double>(map.axes);
    // Every product of rows is off by at most canonical_rounding(d) times their norms (below 2).
    map.departure =
        std::sqrt(sum) * (1 + roundings(m * m + 4, kV)) + 4 * m * canonical_rounding(d_);
    map.offset_norm = std::sqrt(kernels_.exact.dot(map.offset.data(), map.offset.data(), d_));
  }

  // Phi of some rows, (count, coordinates), and how far each can be from the exact one.
  void project(const std::vector<std::size_t>& chosen, std::vector<float>& phi,
               std::vector<float>& error, bool as_queries = false) {
    const Projection& map = result_.projection;
    const LinearHead layer{map.weight.data(), map.bias.data(), map.axes, d_, 1};
    std::vector<float> out(chosen.size() * map.axes);
    head_logits(
        layer, chosen.size(),
        [&](std::size_t i, float* scratch) {
          double off;
          return point(chosen[i], scratch, &off, as_queries);
        },
        {kernels_, threads_, interrupt_}, out.data());
    const std::size_t width = map.coordinates();
    phi.resize(chosen.size() * width);
    error.resize(chosen.size());
    parallel_for_rows(chosen.size(), d_ + map.axes, threads_, interrupt_,
                      [&](std::size_t first, std::size_t last, bool) {
                        std::vector<float> scratch(d_);
                        double off;
                        for (std::size_t i = first; i < last; ++i) {
                          const float* x = point(chosen[i], scratch.data(), &off, as_queries);
                          const double slack =
                              map.map(x, &out[i * map.axes], kernels_, &phi[i * width]);
                          error[i] = round_up(off + slack);
                        }
                      });
  }

  // Where tails lie, and how long a unit of code is if queries are like rows.
  void measure_sample() {
    Projection& map = result_.projection;
    const std::size_t width = map.coordinates();
    std::vector<float> phi, asked, error;
    const auto chosen = places(std::min<std::size_t>(segment_.n, 512), 3);
    project(chosen, phi, error);
    const std::size_t count = phi.size() / width;
    if (map.has_tail) {
      double sum = 0;
      for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(phi[i * width + map.axes]);
      map.tail_centre = sum / static_cast<double>(count);
      project(chosen, phi, error);
    }
    std::vector<double> apart, near(count, std::numeric_limits<double>::infinity());
    project(chosen, asked, error, true);
    double largest = 0;
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t p = 0; p < map.axes; ++p)
        largest = std::max(largest, std::fabs(static_cast<double>(asked[i * width + p])));
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = 0; j < count; ++j) {
        if (i == j) continue;
        apart.push_back(
            std::sqrt(kernels_.exact.squared_distance(&asked[i * width], &phi[j * width], width)));
        near[i] = std::min(near[i], apart.back());
      }
    result_.scale = count < 2 ? 1 : finest_scale(apart, near, largest);
  }

  // Scores of 16 bits hold squared distances of codes up to `reach^2 + 2^16`, and a reach of less
  // than 256; farther rows may pass without need. So: the longest of random pairs but for one in a
  // hundred, past a reach of nine tenths of what is the nearest in a sample to its median row; the
  // reach of nearly all rows; and all but the largest codes of queries within 6 bits. Finer codes
  // have smaller errors.
  static double finest_scale(std::vector<double>& apart, std::vector<double>& near,
                             double largest) {
    const auto quantile = [](std::vector<double>& values, std::size_t percent) {
      const auto at = values.begin() + static_cast<std::ptrdiff_t>(values.size() * percent / 100);
      std::nth_element(values.begin(), at, values.end());
      return *at;
    };
    const double far = quantile(apart, 99), typical = 0.9 * quantile(near, 50);
    if (!(far > 0)) return largest > 0 ? 64 / largest : 1;
    const double held = 256 / std::sqrt(far * far - typical * typical);
    return std::min({held, 240 / quantile(near, 95), 100 / largest});
  }

  // A few rounds of k-means on a sample of projections.
  void find_centres() {
    const std::size_t width = result_.projection.coordinates();
    std::size_t k = std::max<std::size_t>(1, std::min(shape_.clusters, segment_.n));
    std::vector<float> phi, error;
    project(places(std::min(segment_.n, std::max<std::size_t>(1024, 24 * k)), 4), phi, error);
    const std::size_t count = phi.size() / width;
    k = std::min(k, count);
    result_.clusters = k;
    result_.centres.resize(k * width);
    for (std::size_t c = 0; c < k; ++c)
      std::copy_n(&phi[count * c / k * width], width, &result_.centres[c * width]);
    std::vector<std::int64_t> label;
    std::vector<double> away;
    for (int round = 0; round < 4; ++round) {
      assign(phi, label, away);
      std::vector<double> sum(k * width);
      std::vector<std::size_t> members(k);
      for (std::size_t i = 0; i < count; ++i) {
        const auto c = static_cast<std::size_t>(label[i]);
        ++members[c];
        for (std::size_t p = 0; p < width; ++p)
          sum[c * width + p] += static_cast<double>(phi[i * width + p]);
      }
      for (std::size_t c = 0; c < k; ++c)
        for (std::size_t p = 0; p < width && members[c] > 0; ++p)
          result_.centres[c * width + p] =
              static_cast<float>(sum[c * width + p] / static_cast<double>(members[c]));
    }
  }

  // The nearest centre of each point: the search itself finds it.
  void assign(const std::vector<float>& phi, std::vector<std::int64_t>& label,
              std::vector<double>& away) {
    const std::size_t width = result_.projection.coordinates(), count = phi.size() / width;
    SearchRequest request;
    request.queries = phi.data();
    request.q = count;
    request.d = width;
    request.k = 1;
    request.queries_max_abs = kernels_.filter.max_abs(phi.data(), phi.size());
    Segment centres;
    centres.keys.data = result_.centres.data();
    centres.n = result_.clusters;
    centres.max_abs = kernels_.filter.max_abs(result_.centres.data(), result_.centres.size());
    request.segments.push_back(centres);
    label.resize(count);
    away.resize(count);
    flat_search(request, {kernels_, threads_, interrupt_}, {away.data(), label.data(), nullptr});
    if (std::find(label.begin(), label.end(), -1) != label.end()) throw_changed();
  }

  // Labels, distances from centres, codes and errors of all rows, in their order.
  void code_projections() {
    const std::size_t n = segment_.n, width = result_.projection.coordinates();
    label_.resize(n);
    away_.resize(n);
    error_.resize(n);
    slack_.resize(n);
    codes_by_row_.assign(n * shape_.depth, 0);
    std::vector<std::size_t> chosen;
    std::vector<float> phi, error;
    std::vector<std::int64_t> label;
    std::vector<double> away;
    for (std::size_t start = 0; start < n; start += kBlockRows) {
      chosen.resize(std::min(kBlockRows, n - start));
      std::iota(chosen.begin(), chosen.end(), start);
      project(chosen, phi, error);
      assign(phi, label, away);
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        label_[start + i] = static_cast<std::uint32_t>(label[i]);
        away_[start + i] = away[i];
        slack_[start + i] = error[i];
        error_[start + i] = quantise(&phi[i * width], static_cast<double>(error[i]),
                                     &codes_by_row_[(start + i) * shape_.depth]);
      }
    }
  }

  // Codes of one projection, and how far they are from the exact one.
  float quantise(const float* phi, double slack, std::int8_t* codes) const {
    const std::size_t width = result_.projection.coordinates();
    const double scale = result_.scale;
    double sum = 0;
    for (std::size_t p = 0; p < width; ++p) {
      const double value = static_cast<double>(phi[p]);
      const double code = nearest_code(value * scale, -127, 127);
      codes[p] = static_cast<std::int8_t>(code);
      const double off = value - code / scale;
      sum += off * off;
    }
    const auto w = static_cast<double>(width);
    return round_up(std::sqrt(sum) * (1 + roundings(w + 8, kV)) + slack);
  }

  // Places by cluster and distance from its centre, cut into chunks of whole panels. Rows whose
  // codes are far off come last, so that they loosen no other chunk's bounds.
  void arrange() {
    const std::size_t n = segment_.n;
    std::vector<float> sorted(error_);
    const auto at = sorted.begin() + static_cast<std::ptrdiff_t>((n - 1) * 995 / 1000);
    std::nth_element(sorted.begin(), at, sorted.end());
    const float largest_error = *at * 1.1F;  // of rows that are no outliers
    const auto outliers = static_cast<std::uint32_t>(result_.clusters);
    std::vector<std::uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0U);
    const auto group = [&](std::uint32_t i) {
      return error_[i] > largest_error ? outliers : label_[i];
    };
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      const std::uint32_t ga = group(a), gb = group(b);
      return ga != gb ? ga < gb : away_[a] != away_[b] ? away_[a] < away_[b] : a < b;
    });
    std::size_t next = 0;
    for (std::uint32_t c = 0; c <= outliers; ++c) {
      const std::size_t first = next;
      while (next < n && group(order[next]) == c) ++next;
      for (std::size_t i = first; i < next; i += kChunkRows)
        add_chunk(&order[i], std::min(kChunkRows, next - i), c, c != outliers);
    }
    result_.find_starts();
    lay_panels();
  }

  // Outliers have no centre: no row of such a chunk is too far or too near.
  void add_chunk(const std::uint32_t* members, std::size_t count, std::uint32_t cluster,
                 bool bounded) {
    Chunk chunk{};
    chunk.first = static_cast<std::uint32_t>(rows_.size());
    chunk.count = static_cast<std::uint32_t>((count + kPanelRows - 1) / kPanelRows * kPanelRows);
    chunk.cluster = cluster;
    chunk.near = bounded ? std::numeric_limits<float>::infinity() : 0;
    chunk.far = bounded ? 0 : std::numeric_limits<float>::infinity();
    const double theta = canonical_rounding(result_.projection.coordinates());
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t r = members[i];
      const double slack = static_cast<double>(slack_[r]);
      chunk.near = std::min(chunk.near, -round_up(slack - away_[r] * (1 - theta)));
      chunk.far = std::max(chunk.far, round_up(slack + away_[r] * (1 + theta)));
      chunk.error = std::max(chunk.error, error_[r]);
    }
    if (!bounded) chunk.near = -chunk.far;
    rows_.insert(rows_.end(), members, members + count);
    rows_.resize(chunk.first + chunk.count, kNoRow);
    result_.chunks.push_back(chunk);
  }

  void lay_panels() {
    const std::size_t places = rows_.size(), depth = shape_.depth;
    panels_.assign(places * depth, 0);
    init_.assign(places, kPaddingInit);
    for (std::size_t place = 0; place < places; ++place) {
      if (rows_[place] == kNoRow) continue;
      const std::int8_t* codes = &codes_by_row_[rows_[place] * depth];
      int square = 0, sum = 0;
      for (std::size_t p = 0; p < depth; ++p) {
        panels_[in_panels(place, p, depth)] = codes[p];
        square += codes[p] * codes[p];
        sum += codes[p];
      }
      init_[place] = -(square / 2) - kQueryOffset * sum;
    }
  }

  // The rows themselves in 8 bits, every dimension with a step of its own.
  void code_rows() {
    const std::size_t padded = (d_ + kCodeStep - 1) / kCodeStep * kCodeStep;
    const std::size_t places = rows_.size();
    result_.code_depth = padded;
    codes_.assign(places * padded, 0);
    coded_.assign(places, {0, 0});
    result_.steps.assign(d_, 0);
    for (std::size_t p = 0; p < d_; ++p) {
      double largest = 0;
      for (std::size_t i = 0; i < sample_rows_; ++i)
        largest = std::max(largest, std::fabs(sample_[i * d_ + p]));
      result_.steps[p] = static_cast<float>(largest * 1.1 / 127);
    }
    std::vector<double> sums(result_.chunks.size()), squares(result_.chunks.size());
    parallel_for(result_.chunks.size(), threads_, interrupt_, [&](std::size_t c, bool calling) {
      interrupt_.poll(calling);
      code_chunk(result_.chunks[c], sums[c], squares[c]);
    });
    result_.code_sum = *std::max_element(sums.begin(), sums.end());
    result_.largest_square = *std::max_element(squares.begin(), squares.end());
  }

  void code_chunk(const Chunk& chunk, double& most, double& largest) {
    std::vector<float> scratch(d_);
    double point_off;
    for (std::size_t place = chunk.first; place < chunk.first + chunk.count; ++place) {
      if (rows_[place] == kNoRow) continue;
      const float* x = point(rows_[place], scratch.data(), &point_off);
      std::int8_t* codes = &codes_[place * result_.code_depth];
      double square = 0, error = 0, sum = 0;
      for (std::size_t p = 0; p < d_; ++p) {
        const double y =
            static_cast<double>(x[p]) - static_cast<double>(result_.projection.offset[p]);
        const auto step = static_cast<double>(result_.steps[p]);
        const double code = step > 0 ? nearest_code(y / step, -127, 127) : 0;
        codes[p] = static_cast<std::int8_t>(code);
        const double coded = step * code, off = y - coded;
        square += coded * coded;
        error += off * off;
        sum += std::fabs(code);
      }
      const double relative = roundings(static_cast<double>(d_) + 8, kV);
      // Of rows this large a sum of squares leaves float32, and no bound would hold.
      if (!(square <= static_cast<double>(std::numeric_limits<float>::max()))) throw_uncodable();
      coded_[place] = {
          static_cast<float>(square),
          round_up(std::sqrt(error) * (1 + relative) + std::sqrt(square) * 4 * kV + point_off)};
      most = std::max(most, sum);
      largest = std::max(largest, square * (1 + relative));
    }
  }

  const Segment& segment_;
  const std::size_t given_d_;  // of rows
  std::size_t d_ = 0;          // of their points
  const CascadeShape shape_;
  const KernelTable& kernels_;
  const std::size_t threads_;
  Interrupt& interrupt_;

  Cascade result_;
  AlignedVector<std::uint32_t> rows_;
  AlignedVector<std::int8_t> panels_, codes_;
  AlignedVector<std::int32_t> init_;
  AlignedVector<CodedRow> coded_;
  std::size_t sample_rows_ = 0;
  std::vector<double> sample_;  // (sample_rows_, d), centred
  std::vector<std::uint32_t> label_;
  std::vector<double> away_;
  std::vector<float> error_, slack_;
  std::vector<std::int8_t> codes_by_row_;  // (n, depth), of projections
};

}  // namespace

Cascade build_cascade(const Segment& segment, std::size_t d, const CascadeShape& shape,
                      const Execution& execution) {
  if (shape.depth < 4 || shape.depth % 4 != 0 || shape.depth > kMostDepth)
    throw std::invalid_argument("depth must be a multiple of 4 from 4 to 32768");
  if (segment.n == 0 || segment.n >= kNoRow / 2 || !can_be_coded(segment.max_abs))
    throw std::invalid_argument("these rows cannot be coded");
  return Builder(segment, d, shape, execution.kernels, execution.threads, execution.interrupt)
      .build();
}

}  // namespace resmem
