// Checks scores of many settings from one search.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../base/cpu.h"
#include "../residuals/sweep.h"
#include "checks.h"
#include "simplex_map.h"

namespace resmem {
namespace {

// Owns what a SweepRequest points to.
struct SweepCase {
  explicit SweepCase(Reader& reader) {
    request.q = reader.size();
    request.k = reader.size();
    request.rows = reader.size();
    request.columns = reader.size();
    residuals = reader.array<float>();
    row_labels = reader.array<std::int64_t>();
    row_weights = reader.array<double>();
    distances = reader.array<double>(times(request.q, request.k));
    positions = reader.array<std::int64_t>(distances.size());
    base = reader.array<double>();  // empty: not known
    labels = reader.array<std::int64_t>();
    values = reader.array<double>();
    if (row_labels.empty())
      request.residuals = residuals.data();
    else
      request.row_labels = row_labels.data();
    if (!row_weights.empty()) request.row_weights = row_weights.data();
    request.distances = distances.data();
    request.positions = positions.data();
    request.base = base.empty() ? nullptr : base.data();
    if (labels.empty())
      request.values = values.data();
    else
      request.labels = labels.data();
    read_settings(reader);
    check_indices();
  }

  void read_settings(Reader& reader) {
    for (const std::int64_t k : reader.array<std::int64_t>())
      request.ks.push_back(static_cast<std::size_t>(k));
    request.sigmas = reader.array<double>();
    request.strengths = reader.array<double>();
    const Integers kinds = reader.array<std::int64_t>();
    const Doubles floors = reader.array<double>(kinds.size());
    for (std::size_t i = 0; i < floors.size(); ++i)
      request.maps.push_back(simplex_map(kinds[i], floors[i]));
    for (const std::int64_t bound : reader.array<std::int64_t>())
      request.bounds.push_back(static_cast<std::size_t>(bound));
    request.bins = reader.size();
    request.interpolate = reader.size() != 0;
  }
  void check_indices() const {
    const auto ascend = [](const std::vector<std::size_t>& numbers, std::size_t last) {
      return !numbers.empty() && std::is_sorted(numbers.begin(), numbers.end()) &&
             numbers.back() <= last;
    };
    require(ascend(request.ks, request.k), "the ks do not ascend");
    require(ascend(request.bounds, request.q), "the bounds do not ascend");
    require(request.columns > 0 && !request.maps.empty(), "there is no column or map");
    for (const std::int64_t position : positions)
      require(position < static_cast<std::int64_t>(request.rows), "a position is beyond the rows");
    require(row_labels.empty() ? residuals.size() == times(request.rows, request.columns)
                               : row_labels.size() == request.rows,
            "the rows have another shape");
    require(row_weights.empty() || row_weights.size() == request.rows, "a row has no weight");
    for (const Integers& some : {labels, row_labels})
      for (const std::int64_t label : some)
        require(static_cast<std::uint64_t>(label) < request.columns, "a label is no class");
    const std::size_t outputs = times(request.q, request.columns);
    require(base.empty() || base.size() == outputs, "the base outputs have another shape");
    require(labels.empty() ? values.size() == outputs && values.size() == base.size()
                           : labels.size() == request.q,
            "the targets have another shape");
  }

  SweepRequest request;
  Floats residuals;
  Doubles row_weights, distances, base, values;
  Integers positions, labels, row_labels;
};

std::vector<SweepScore> scores_of(const SweepRequest& request) {
  if (request.labels == nullptr) return {SweepScore::squared_error, SweepScore::absolute_error};
  return {SweepScore::log_loss, SweepScore::accuracy, SweepScore::brier, SweepScore::calibration};
}

}  // namespace

// CONTRACT.md leaves the order of these sums open, so the cases do not hold them. All tables and
// any number of threads must give the bits that the scalar table gives on one thread.
void check_sweep(Context& context, Reader& reader) {
  const SweepCase given(reader);
  SweepRequest request = given.request;
  for (const SweepScore score : scores_of(request)) {
    request.score = score;
    Doubles wanted(request.folds() * request.settings() * request.width());
    Interrupt never;
    sweep(request, Execution{scalar_kernels(), 1, never}, wanted.data());
    check_output(context, wanted, [&](const Execution& execution, Doubles& out) {
      sweep(request, execution, out.data());
    });
  }
}

}  // namespace resmem
