// The filters that compute dot products have this bracket in common:
//
//     score - spread(x) - slack(q)  <=  t  <=  score + slack(q).
#pragma once

#include "filter_bounds.h"

namespace resmem {

class DotBounds : public FilterBounds {
 public:
  Kernel kernel(const KernelTable& kernels) const final { return kernels.filter.scan_dot; }

  // The k-th row's t is at least low - slack, and a score exceeds its t by at most another slack.
  float threshold(float low, const StagedQuery& query) const final {
    return round_down((static_cast<double>(low) - 2 * query.slack) - kGuard * kEta);
  }

  void key_bracket(float score, float spread, const StagedQuery& query, double* low,
                   double* high) const final {
    const auto value = static_cast<double>(score);
    *low = key_of(value + query.slack, query);
    *high = key_of(value - static_cast<double>(spread) - query.slack, query);
  }

 private:
  // Returns the canonical key of an exact score t.
  virtual double key_of(double t, const StagedQuery& query) const = 0;
};

// A dot filter that can place a canonical key among its scores, because its t follows from the key.
// A row whose key is at most the k-th has at least the k-th row's t, and so scores at least that
// less one slack.
class KeyedDotBounds : public DotBounds, public KeyScores {
 public:
  const KeyScores* key_scores() const final { return this; }
  float threshold_of_key(double key, const StagedQuery& query) const final {
    return round_down(exact_score(key, query) - query.slack);
  }
};

}  // namespace resmem
