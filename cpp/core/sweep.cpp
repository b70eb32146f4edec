#include "sweep.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace resmem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSmallest = std::numeric_limits<double>::min();  // what a logarithm is taken of
constexpr std::size_t kPartBytes = std::size_t{32} << 20;         // sums of all parts
constexpr std::size_t kMostParts = 16;                            // of a fold

// Scores one sum after the other: `add` is told them in the order of the settings.
class ClassScores {
 public:
  ClassScores(const SweepRequest& request, const KernelTable& kernels)
      : request_(request),
        kernels_(kernels),
        ld_((request.columns + kPartials - 1) / kPartials * kPartials),
        base_(ld_, -kInfinity),
        moved_(ld_, -kInfinity),
        zeros_(ld_, 0.0),
        chance_(request.settings()),
        loss_(request.settings()) {
    for (const SimplexMap& map : request.maps) maps_.push_back(map.fitted(request.columns));
  }

  void begin(std::size_t query) {
    label_ = static_cast<std::size_t>(request_.labels[query]);
    const double* base = request_.base + query * request_.columns;
    std::copy_n(base, request_.columns, base_.begin());
    at_label_ = base[label_];
    base_[label_] = -kInfinity;  // the label's probability is computed apart from the others'
    done_ = 0;
  }

  // The sum, unnormalised, of one k and sigma, whose factor is 1 / W.
  void add(const double* sums, double factor, double* out) {
    for (const double strength : request_.strengths)
      for (const SimplexMap& map : maps_) score(map, sums, strength * factor, out);
  }

  void end(double* out) {
    std::copy(chance_.begin(), chance_.end(), loss_.begin());
    for (double& each : loss_) each = each < kSmallest ? 1 : each;
    kernels_.log(loss_.data(), loss_.size());
    const std::size_t width = request_.width();
    for (std::size_t i = 0; i < loss_.size(); ++i)
      out[i * width] += chance_[i] < kSmallest ? kInfinity : -loss_[i];
  }

 private:
  void score(const SimplexMap& map, const double* sums, double factor, double* out) {
    double label = at_label_ + factor * sums[label_];
    ClippedSums others;
    if (map.project) {
      const double shift = move(map, sums, factor, label);
      label -= shift;
      others = kernels_.clipped_sums(moved_.data(), zeros_.data(), 0, map.floor, ld_);
    } else {
      others = kernels_.clipped_sums(base_.data(), sums, factor, map.floor, ld_);
    }
    label = label > map.floor ? label : map.floor;
    // The label's place among the others and what pads the row are at the floor.
    const auto floors = static_cast<double>(ld_ - request_.columns + 1);
    const double total = (others.total - floors * map.floor) + label;
    const double squares = others.squares - floors * (map.floor * map.floor);
    const double chance = label / total, wrong = 1 - chance;
    const bool correct = label > others.largest ||
                         (label == others.largest && first_of_equal(map, sums, factor, label));
    double* stats = out + done_ * request_.width();
    chance_[done_++] = chance;
    stats[1] += correct ? 1 : 0;
    stats[2] += squares / (total * total) + wrong * wrong;
    if (request_.bins > 0) confide(std::max(label, others.largest) / total, correct, stats + 3);
  }

  // Writes the outputs but the label's, less the shift that is returned.
  double move(const SimplexMap& map, const double* sums, double factor, double label) {
    const std::size_t columns = request_.columns;
    for (std::size_t c = 0; c < columns; ++c) moved_[c] = base_[c] + factor * sums[c];
    moved_[label_] = label;
    const double shift = simplex_shift(map, moved_.data(), columns, kernels_, padded_);
    for (std::size_t c = 0; c < columns; ++c) moved_[c] -= shift;
    moved_[label_] = -kInfinity;
    return shift;
  }

  // Whether no class before the label's has its value, which is the largest.
  bool first_of_equal(const SimplexMap& map, const double* sums, double factor,
                      double label) const {
    for (std::size_t c = 0; c < label_; ++c) {
      const double value = map.project ? moved_[c] : base_[c] + factor * sums[c];
      if (std::max(value, map.floor) == label) return false;
    }
    return true;
  }

  void confide(double confidence, bool correct, double* stats) const {
    const auto scaled = static_cast<std::size_t>(confidence * static_cast<double>(request_.bins));
    double* bin = stats + 3 * std::min(scaled, request_.bins - 1);
    bin[0] += 1;
    bin[1] += confidence;
    bin[2] += correct ? 1 : 0;
  }

  const SweepRequest& request_;
  const KernelTable& kernels_;
  std::size_t ld_;  // columns, padded with -inf
  std::vector<SimplexMap> maps_;
  std::vector<double> base_, moved_, zeros_, padded_;
  std::vector<double> chance_, loss_;  // the label's probability in every setting
  std::size_t label_ = 0, done_ = 0;
  double at_label_ = 0;
};

class ValueScores {
 public:
  ValueScores(const SweepRequest& request, const KernelTable&) : request_(request) {}

  void begin(std::size_t query) {
    base_ = request_.base + query * request_.columns;
    value_ = request_.values + query * request_.columns;
    done_ = 0;
  }

  void add(const double* sums, double factor, double* out) {
    for (const double strength : request_.strengths) {
      double squares = 0, sizes = 0;
      for (std::size_t c = 0; c < request_.columns; ++c) {
        const double error = (base_[c] + (strength * factor) * sums[c]) - value_[c];
        squares += error * error;
        sizes += std::fabs(error);
      }
      double* stats = out + 2 * done_++;
      stats[0] += squares;
      stats[1] += sizes;
    }
  }

  void end(double*) {}

 private:
  const SweepRequest& request_;
  const double *base_ = nullptr, *value_ = nullptr;
  std::size_t done_ = 0;
};

// The queries of a part, one after the other.
template <class Scores>
class PartSweep {
 public:
  PartSweep(const SweepRequest& request, const KernelTable& kernels)
      : request_(request),
        kernels_(kernels),
        scores_(request, kernels),
        ld_((request.columns + kPartials - 1) / kPartials * kPartials),
        rows_(request.k),
        weights_(request.k * request.sigmas.size()),
        sums_(ld_ * request.sigmas.size()),
        totals_(request.sigmas.size()) {}

  void query(std::size_t q, double* out) {
    const std::size_t scales = request_.sigmas.size(), count = gather(q);
    std::fill(sums_.begin(), sums_.end(), 0.0);
    std::fill(totals_.begin(), totals_.end(), 0.0);
    scores_.begin(q);
    std::size_t done = 0;
    for (const std::size_t k : request_.ks) {
      const std::size_t last = std::min(k, count);
      const double* weights = weights_.data() + done * scales;
      kernels_.weighted_sums(
          {sums_.data(), ld_, rows_.data() + done, weights, scales, last - done, request_.columns});
      for (; done < last; ++done)
        for (std::size_t s = 0; s < scales; ++s) totals_[s] += weights_[done * scales + s];
      for (std::size_t s = 0; s < scales; ++s)
        scores_.add(sums_.data() + s * ld_, count > 0 ? 1 / totals_[s] : 0, out);
    }
    scores_.end(out);
  }

 private:
  // The query's neighbours and their weights, (count, scales).
  std::size_t gather(std::size_t q) {
    const double* distances = request_.distances + q * request_.k;
    const std::int64_t* positions = request_.positions + q * request_.k;
    const std::size_t scales = request_.sigmas.size();
    std::size_t count = 0;
    for (; count < request_.ks.back() && positions[count] >= 0; ++count) {
      rows_[count] =
          request_.residuals + static_cast<std::size_t>(positions[count]) * request_.columns;
      for (std::size_t s = 0; s < scales; ++s)
        weights_[count * scales + s] = (distances[0] - distances[count]) / request_.sigmas[s];
    }
    kernels_.exp(weights_.data(), count * scales);
    if (q + 1 < request_.q) fetch(positions + request_.k);
    return count;
  }

  // Asks for the rows of the next query: they lie at random places.
  void fetch(const std::int64_t* positions) const {
    for (std::size_t j = 0; j < request_.ks.back() && positions[j] >= 0; ++j) {
      const float* row =
          request_.residuals + static_cast<std::size_t>(positions[j]) * request_.columns;
      for (std::size_t c = 0; c < request_.columns; c += kLine) __builtin_prefetch(row + c);
    }
  }

  const SweepRequest& request_;
  const KernelTable& kernels_;
  Scores scores_;
  std::size_t ld_;
  std::vector<const float*> rows_;
  std::vector<double> weights_, sums_, totals_;
};

// Folds are cut into parts, so that threads share them; a part's sums are its own, and are added
// in order: the threads change no bit.
template <class Scores>
void sweep_parts(const SweepRequest& request, const KernelTable& kernels, double* out,
                 Interrupt& interrupt) {
  const std::size_t folds = request.folds(), size = request.settings() * request.width();
  const std::size_t parts = std::clamp<std::size_t>(kPartBytes / (8 * size * folds), 1, kMostParts);
  std::vector<double> sums(folds * parts * size);
  parallel_for(folds * parts, request.threads, interrupt, [&](std::size_t task, bool calling) {
    const std::size_t fold = task / parts, part = task % parts;
    const std::size_t start = request.bounds[fold], n = request.bounds[fold + 1] - start;
    if (n * part / parts == n * (part + 1) / parts) return;
    PartSweep<Scores> sweep(request, kernels);
    for (std::size_t q = n * part / parts; q < n * (part + 1) / parts; ++q) {
      interrupt.poll(calling);
      sweep.query(start + q, sums.data() + task * size);
    }
  });
  std::fill_n(out, folds * size, 0.0);
  for (std::size_t task = 0; task < folds * parts; ++task) {
    double* to = out + task / parts * size;
    for (std::size_t i = 0; i < size; ++i) to[i] += sums[task * size + i];
  }
}

}  // namespace

void sweep(const SweepRequest& request, const KernelTable& kernels, double* out,
           Interrupt& interrupt) {
  if (request.labels != nullptr)
    sweep_parts<ClassScores>(request, kernels, out, interrupt);
  else
    sweep_parts<ValueScores>(request, kernels, out, interrupt);
}

}  // namespace resmem
