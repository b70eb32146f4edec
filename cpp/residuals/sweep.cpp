#include "sweep.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../base/aligned.h"

namespace resmem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSmallest = std::numeric_limits<double>::min();  // no logarithm is taken below it
constexpr std::size_t kPartBytes = std::size_t{32} << 20;         // sums of all parts
constexpr std::size_t kMostParts = 16;                            // of a fold
constexpr std::size_t kPolled = std::size_t{1} << 20;             // values between two polls

// Rows are aligned, as a vector across two cache lines takes twice as long.
using Row = AlignedVector<double>;

// Scores the sums of a query one after the other, in the order of the settings.
class ClassScores {
 public:
  ClassScores(const SweepRequest& request, const KernelTable& kernels)
      : request_(request),
        kernels_(kernels),
        ld_(padded_to_partials(request.columns)),
        base_(ld_, -kInfinity),
        moved_(ld_, -kInfinity),
        shifted_(ld_, -kInfinity),
        gained_(ld_, 0.0),
        ones_(ld_, 1.0),
        nothing_(ld_, 0.0),
        factors_(request.strengths.size()),
        totals_(request.strengths.size()),
        unmoved_(request.strengths.size()),
        shares_(request.interpolate ? request.strengths.size() : 0, Row(ld_, -kInfinity)),
        chance_(request.settings()),
        loss_(request.settings()) {
    for (const SimplexMap& map : request.maps)
      maps_.push_back({map.fitted(request.columns), 0, Row(ld_, 0.0)});
  }

  // Takes up a query. The label's output is kept apart from the others'. Its place, like what pads
  // the row, holds -inf with a floor of 0 and adds nothing.
  void begin(std::size_t query) {
    const std::size_t columns = request_.columns;
    label_ = static_cast<std::size_t>(request_.labels[query]);
    ungiven_.clear();
    if (known()) {
      std::copy_n(request_.base + query * columns, columns, base_.begin());
      std::size_t given = 0;
      for (std::size_t c = 0; c < columns; ++c) given += base_[c] > 0 ? 1 : 0;
      for (std::size_t c = 0; given < columns && c < columns; ++c)
        if (!(base_[c] > 0)) ungiven_.push_back(c);
    } else {
      std::fill_n(base_.begin(), columns, 0.0);
    }
    for (Map& map : maps_) {
      if (known())
        fill_floors(map.is, base_.data(), columns, map.floors.data());
      else
        std::fill_n(map.floors.begin(), columns, map.is.floor);
      map.at_label = map.floors[label_];
      map.floors[label_] = 0;
    }
    at_label_ = base_[label_];
    base_[label_] = -kInfinity;
    done_ = 0;
    // The log-loss of a mixture needs the label's output alone.
    if (request_.interpolate && request_.score != SweepScore::log_loss) share_base();
  }

  // Scores the unnormalised sum of one k and sigma. Its factor is 1 / W, W the sum of weights.
  void add(const double* sums, double factor, double* out) {
    if (request_.interpolate) {
      add_mixtures(sums, factor, out);
      return;
    }
    const std::size_t strengths = factors_.size();
    const double label_sum = sums[label_];
    // Whether the label's output stays at some strength. Any other output seldom moves then.
    bool still = false;
    for (std::size_t t = 0; t < strengths; ++t) {
      factors_[t] = request_.strengths[t] * factor;
      unmoved_[t] = at_label_ + factors_[t] * label_sum == at_label_;
      still |= unmoved_[t] != 0;
    }
    for (std::size_t t = 0; still && t < strengths; ++t)
      unmoved_[t] = unmoved_[t] && known() && is_unmoved(sums, factors_[t]);
    sums = gained(sums);
    for (std::size_t m = 0; m < maps_.size(); ++m) {
      const Map& map = maps_[m];
      const bool together = request_.score == SweepScore::log_loss && !map.projects();
      if (together)
        kernels_.sums.clipped_totals(base_.data(), sums, map.floors.data(), factors_.data(),
                                     strengths, ld_, totals_.data());
      for (std::size_t t = 0; t < strengths; ++t) {
        const std::size_t at = done_ + t * maps_.size() + m;
        if (unmoved_[t])
          score({base_.data(), nothing_.data(), nothing_.data(), 0, at_label_, true}, at, out);
        else if (together)
          chance_[at] =
              chance(std::max(at_label_ + factors_[t] * sums[label_], map.at_label), totals_[t]);
        else
          score(outputs(map, sums, factors_[t]), at, out);
      }
    }
    done_ += strengths * maps_.size();
  }

  void end(double* out) {
    if (request_.score != SweepScore::log_loss) return;
    for (std::size_t i = 0; i < loss_.size(); ++i)
      loss_[i] = chance_[i] < kSmallest ? 1 : chance_[i];
    kernels_.exact.log(loss_.data(), loss_.size());
    for (std::size_t i = 0; i < loss_.size(); ++i)
      out[i] += chance_[i] < kSmallest ? kInfinity : -loss_[i];
  }

 private:
  struct Map {
    bool projects() const { return is.kind == SimplexMap::Kind::project; }
    SimplexMap is;
    double at_label;
    Row floors;
  };

  // Outputs are max(base + factor * sums, floors) for the other classes, and `label`, which is not
  // below its floor. They are divided by their total, unless they are probabilities (`whole`).
  struct Outputs {
    const double *base, *sums, *floors;
    double factor, label;
    bool whole;
  };

  bool known() const { return request_.base != nullptr; }

  // Writes what every strength leaves of the base outputs but the label's.
  void share_base() {
    for (std::size_t t = 0; t < shares_.size(); ++t) {
      for (std::size_t c = 0; c < request_.columns; ++c)
        shares_[t][c] = (1 - request_.strengths[t]) * base_[c];
      shares_[t][label_] = -kInfinity;
    }
  }

  // Scores (1 - strength) * base + strength * sums / W, which is a point of the simplex already.
  void add_mixtures(const double* sums, double factor, double* out) {
    for (std::size_t t = 0; t < request_.strengths.size(); ++t, ++done_) {
      const double part = request_.strengths[t] * factor;
      if (factor == 0) {  // no neighbours: the base outputs stay
        score({base_.data(), nothing_.data(), nothing_.data(), 0, at_label_, true}, done_, out);
        continue;
      }
      const double label = (1 - request_.strengths[t]) * at_label_ + part * sums[label_];
      if (request_.score == SweepScore::log_loss)
        chance_[done_] = label;
      else
        score({shares_[t].data(), sums, nothing_.data(), part, label, true}, done_, out);
    }
  }

  // Tells whether the factor is too small to change any output but the label's.
  bool is_unmoved(const double* sums, double factor) const {
    for (std::size_t c = 0; c < request_.columns; ++c)
      if (base_[c] + factor * sums[c] != base_[c]) return false;
    return true;
  }

  // Returns the sums without what neighbours take from classes to which the base model gives
  // nothing. These have nothing to lose, and a negative strength gives them nothing.
  const double* gained(const double* sums) {
    if (ungiven_.empty()) return sums;
    std::copy_n(sums, request_.columns, gained_.begin());
    for (const std::size_t c : ungiven_) gained_[c] = std::max(gained_[c], 0.0);
    return gained_.data();
  }

  // Returns the probability of the label, given its output and the total of all others.
  static double chance(double label, double others) { return label / (others + label); }

  Outputs outputs(const Map& map, const double* sums, double factor) {
    double label = at_label_ + factor * sums[label_];
    if (!map.projects())
      return {base_.data(), sums, map.floors.data(), factor, std::max(label, map.at_label), false};
    // The outputs are written out here, and the shift takes the place of the factor.
    if (known() && !(at_label_ > 0 || label > 0)) label = -kInfinity;  // the class is impossible
    const double shift = move(map.is, sums, factor, label);
    label = std::max(label - shift, map.at_label);
    return {moved_.data(), ones_.data(), map.floors.data(), -shift, label, false};
  }

  void score(const Outputs& x, std::size_t at, double* out) {
    if (request_.score == SweepScore::log_loss) {
      double others = 0;
      if (!x.whole)
        kernels_.sums.clipped_totals(x.base, x.sums, x.floors, &x.factor, 1, ld_, &others);
      chance_[at] = x.whole ? x.label : chance(x.label, others);
      return;
    }
    const ClippedSums others = kernels_.sums.clipped_sums(x.base, x.sums, x.floors, x.factor, ld_);
    const double total = x.whole ? 1 : others.total + x.label, wrong = 1 - x.label / total;
    const bool correct =
        x.label > others.largest || (x.label == others.largest && first_of_equal(x));
    switch (request_.score) {
      case SweepScore::brier:
        out[at] += others.squares / (total * total) + wrong * wrong;
        break;
      case SweepScore::accuracy:
        out[at] += correct ? 1 : 0;
        break;
      case SweepScore::calibration:
        confide(std::max(x.label, others.largest) / total, correct, out + at * request_.width());
        break;
      case SweepScore::log_loss:
      case SweepScore::squared_error:
      case SweepScore::absolute_error:
        break;  // scored above, and by ValueScores
    }
  }

  // Tells whether no class before the label's has the label's value, which is the largest.
  bool first_of_equal(const Outputs& x) const {
    for (std::size_t c = 0; c < label_; ++c)
      if (std::max(x.base[c] + x.factor * x.sums[c], x.floors[c]) == x.label) return false;
    return true;
  }

  // Writes the outputs without the label's, -inf where a class is impossible, and returns their
  // shift.
  double move(const SimplexMap& map, const double* sums, double factor, double label) {
    for (std::size_t c = 0; c < request_.columns; ++c) moved_[c] = base_[c] + factor * sums[c];
    moved_[label_] = label;
    const double* values = moved_.data();
    if (!ungiven_.empty()) {
      for (const std::size_t c : ungiven_)
        if (!(moved_[c] > 0)) moved_[c] = -kInfinity;
      shifted_ = moved_;
      for (const std::size_t c : ungiven_) shifted_[c] += map.floor;
      values = shifted_.data();
    }
    const std::size_t floored = request_.columns - ungiven_.size();
    const double shift = simplex_shift(map, values, ld_, floored, kernels_);
    moved_[label_] = -kInfinity;
    return shift;
  }

  void confide(double confidence, bool correct, double* stats) const {
    const auto most = static_cast<double>(request_.bins - 1);
    const double scaled = confidence * static_cast<double>(request_.bins);  // it may be NaN
    double* bin = stats + 3 * static_cast<std::size_t>(std::min(std::max(0.0, scaled), most));
    bin[0] += 1;
    bin[1] += confidence;
    bin[2] += correct ? 1 : 0;
  }

  const SweepRequest& request_;
  const KernelTable& kernels_;
  std::size_t ld_;  // columns, padded with -inf
  std::vector<Map> maps_;
  Row base_, moved_, shifted_, gained_, ones_, nothing_;
  std::vector<double> factors_, totals_;  // of every strength
  std::vector<char> unmoved_;             // per strength: whether no output moves
  std::vector<Row> shares_;               // per strength: what a mixture has of the base outputs
  std::vector<std::size_t> ungiven_;      // classes to which the base model gives nothing
  std::vector<double> chance_, loss_;     // the label's probability in every setting
  std::size_t label_ = 0, done_ = 0;
  double at_label_ = 0;
};

class ValueScores {
 public:
  ValueScores(const SweepRequest& request, const KernelTable&)
      : request_(request), squared_(request.score == SweepScore::squared_error) {}

  void begin(std::size_t query) {
    base_ = request_.base + query * request_.columns;
    value_ = request_.values + query * request_.columns;
    done_ = 0;
  }

  void add(const double* sums, double factor, double* out) {
    for (const double strength : request_.strengths) {
      // Without neighbours the factor is 0, and the base outputs stay.
      const double share = request_.interpolate && factor != 0 ? 1 - strength : 1;
      double sum = 0;
      for (std::size_t c = 0; c < request_.columns; ++c) {
        const double error = (share * base_[c] + (strength * factor) * sums[c]) - value_[c];
        sum += squared_ ? error * error : std::fabs(error);
      }
      out[done_++] += sum;
    }
  }

  void end(double*) {}

 private:
  const SweepRequest& request_;
  bool squared_;
  const double *base_ = nullptr, *value_ = nullptr;
  std::size_t done_ = 0;
};

// Scores the queries of a part, one after the other.
template <class Scores>
class PartSweep {
 public:
  PartSweep(const SweepRequest& request, const Execution& execution, bool calling_thread)
      : request_(request),
        execution_(execution),
        calling_thread_(calling_thread),
        scores_(request, execution.kernels),
        ld_(padded_to_partials(request.columns)),
        rows_(request.k),
        wide_rows_(request.k),
        labels_(request.k),
        weights_(request.k * request.sigmas.size()),
        sums_(ld_ * request.sigmas.size()),
        totals_(request.sigmas.size()) {}

  // Adds the query's scores to `out`. It polls between sums and scores, as one query takes long
  // where there are many columns.
  void query(std::size_t q, double* out) {
    const std::size_t scales = request_.sigmas.size(), count = gather(q);
    const std::size_t scored = request_.settings() / (request_.ks.size() * scales) * ld_;
    std::fill(sums_.begin(), sums_.end(), 0.0);
    std::fill(totals_.begin(), totals_.end(), 0.0);
    scores_.begin(q);
    std::size_t done = 0;
    for (const std::size_t k : request_.ks) {
      for (const std::size_t last = std::min(k, count); done < last;) {
        const std::size_t rows = std::clamp<std::size_t>(kPolled / (scales * ld_), 1, last - done);
        take(done, rows);
        done += rows;
        worked(rows * scales * ld_);
      }
      for (std::size_t s = 0; s < scales; ++s) {
        scores_.add(sums_.data() + s * ld_, done > 0 ? 1 / totals_[s] : 0, out);
        worked(scored);
      }
    }
    scores_.end(out);
  }

 private:
  // Gathers the query's neighbours and their weights, (count, scales), and returns the count.
  std::size_t gather(std::size_t q) {
    const double* distances = request_.distances + q * request_.k;
    const std::int64_t* positions = request_.positions + q * request_.k;
    const std::size_t scales = request_.sigmas.size();
    std::size_t count = 0;
    for (; count < request_.ks.back() && positions[count] >= 0; ++count) {
      const auto row = static_cast<std::size_t>(positions[count]);
      if (request_.row_labels != nullptr)
        labels_[count] = static_cast<std::size_t>(request_.row_labels[row]);
      else if (request_.residuals64 != nullptr)
        wide_rows_[count] = request_.residuals64 + row * request_.columns;
      else
        rows_[count] = request_.residuals + row * request_.columns;
      for (std::size_t s = 0; s < scales; ++s)
        weights_[count * scales + s] = (distances[0] - distances[count]) / request_.sigmas[s];
    }
    execution_.kernels.exact.exp(weights_.data(), count * scales);
    for (std::size_t j = 0; request_.row_weights != nullptr && j < count; ++j)
      for (std::size_t s = 0; s < scales; ++s)
        weights_[j * scales + s] *= request_.row_weights[positions[j]];
    return count;
  }

  void worked(std::size_t values) {
    work_ += values;
    if (work_ < kPolled) return;
    work_ = 0;
    execution_.interrupt.poll(calling_thread_);
  }

  // Adds `rows` neighbours, from `first` on, to the sums and the sums of weights.
  void take(std::size_t first, std::size_t rows) {
    const std::size_t scales = request_.sigmas.size();
    const double* weights = weights_.data() + first * scales;
    if (request_.row_labels != nullptr)
      take_labels(first, rows);
    else if (request_.residuals64 != nullptr)
      take_wide(first, rows);
    else
      execution_.kernels.sums.weighted_sums(
          {sums_.data(), ld_, rows_.data() + first, weights, scales, rows, request_.columns});
    for (std::size_t j = 0; j < rows; ++j)
      for (std::size_t s = 0; s < scales; ++s) totals_[s] += weights[j * scales + s];
  }

  // Adds float64 residuals to the sums. Only regression has them, and mostly with few columns.
  void take_wide(std::size_t first, std::size_t rows) {
    const std::size_t scales = request_.sigmas.size();
    for (std::size_t j = first; j < first + rows; ++j)
      for (std::size_t s = 0; s < scales; ++s)
        for (std::size_t c = 0; c < request_.columns; ++c)
          sums_[s * ld_ + c] += weights_[j * scales + s] * wide_rows_[j][c];
  }

  // Adds one-hot rows to the sums.
  void take_labels(std::size_t first, std::size_t rows) {
    const std::size_t scales = request_.sigmas.size();
    for (std::size_t j = first; j < first + rows; ++j)
      for (std::size_t s = 0; s < scales; ++s)
        sums_[s * ld_ + labels_[j]] += weights_[j * scales + s];
  }

  const SweepRequest& request_;
  const Execution& execution_;
  bool calling_thread_;
  Scores scores_;
  std::size_t ld_;
  std::vector<const float*> rows_;  // of the query's neighbours; one of the three is used
  std::vector<const double*> wide_rows_;
  std::vector<std::size_t> labels_;
  std::vector<double> weights_;
  Row sums_;
  std::vector<double> totals_;
  std::size_t work_ = 0;  // since the last poll
};

// Folds are cut into parts, so that threads share them. Each part has sums of its own, which are
// added in order, so that the number of threads changes no bit.
template <class Scores>
void sweep_parts(const SweepRequest& request, const Execution& execution, double* out) {
  const std::size_t folds = request.folds(), size = request.settings() * request.width();
  if (folds == 0) return;
  const std::size_t parts = std::clamp<std::size_t>(kPartBytes / (8 * size * folds), 1, kMostParts);
  std::vector<double> sums(folds * parts * size);
  parallel_for(
      folds * parts, execution.threads, execution.interrupt, [&](std::size_t task, bool calling) {
        const std::size_t fold = task / parts, part = task % parts;
        const std::size_t start = request.bounds[fold], n = request.bounds[fold + 1] - start;
        if (n * part / parts == n * (part + 1) / parts) return;
        PartSweep<Scores> sweep(request, execution, calling);
        for (std::size_t q = n * part / parts; q < n * (part + 1) / parts; ++q)
          sweep.query(start + q, sums.data() + task * size);
      });
  std::fill_n(out, folds * size, 0.0);
  for (std::size_t task = 0; task < folds * parts; ++task) {
    double* to = out + task / parts * size;
    for (std::size_t i = 0; i < size; ++i) to[i] += sums[task * size + i];
  }
}

}  // namespace

void sweep(const SweepRequest& request, const Execution& execution, double* out) {
  if (request.labels != nullptr)
    sweep_parts<ClassScores>(request, execution, out);
  else
    sweep_parts<ValueScores>(request, execution, out);
}

}  // namespace resmem
