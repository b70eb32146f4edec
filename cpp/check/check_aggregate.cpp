// Checks weights of neighbours, and the weighted sums of their residuals.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "../residuals/aggregate.h"
#include "checks.h"

namespace resmem {
namespace {

// Owns the weights of rows.
struct WeighedRows {
  explicit WeighedRows(Reader& reader) : weights(reader.size()) {
    for (Doubles& of_segment : weights) {
      const std::size_t n = reader.size();
      of_segment = reader.array<double>();
      require(of_segment.empty() || of_segment.size() == n, "a row has no weight");
      segments.push_back({of_segment.empty() ? nullptr : of_segment.data(), n});
    }
  }

  std::vector<Doubles> weights;
  std::vector<WeightRows> segments;
};

// Owns what an AggregateRequest points to.
struct AggregateCase {
  explicit AggregateCase(Reader& reader) {
    request.q = reader.size();
    request.k = reader.size();
    request.columns = reader.size();
    request.sigma = reader.value<double>();
    request.strength = reader.value<double>();
    const std::size_t kind = reader.size();
    require(kind <= 3, "unknown store");
    if (kind == 2) read_head(reader);
    const std::size_t segments = reader.size();
    stored.reserve(segments);  // so that no array moves
    if (kind == 0)
      read_segments<DenseRows>(reader, segments);
    else if (kind == 1)
      read_segments<SparseRows>(reader, segments);
    else if (kind == 2)
      read_segments<HeadRows>(reader, segments);
    else
      read_segments<LabelRows>(reader, segments);
    distances = reader.array<double>(times(request.q, request.k));
    positions = reader.array<std::int64_t>(distances.size());
    for (const std::int64_t position : positions)
      require(position < static_cast<std::int64_t>(total), "a position is beyond the rows");
    request.selected = reader.size();
    select = reader.array<std::int64_t>(times(request.q, request.selected));
    if (request.selected > 0) request.select = select.data();
    base = reader.array<double>();
    strengths = reader.array<double>();
    require(strengths.empty() || strengths.size() == request.q, "the strengths have another shape");
    if (!strengths.empty()) request.strengths = strengths.data();
    request.interpolate = reader.size() != 0;
    weighed = std::make_unique<WeighedRows>(reader);
    request.weights = weighed->segments;
    wanted = reader.array<double>(times(request.q, request.width()));
    require(base.empty() || base.size() == wanted.size(), "the base outputs have another shape");
    request.distances = distances.data();
    request.positions = positions.data();
    request.add_to_out = !base.empty();
  }

  struct Stored {
    StoredVector numbers;  // residuals, values or keys
    std::vector<std::int32_t> index;
    Floats rest;
    Integers labels;
  };

  void read_head(Reader& reader) {
    request.head.columns = request.columns;
    request.head.d = reader.size();
    request.head.temperature = reader.value<double>();
    weight = reader.array<float>(times(request.columns, request.head.d));
    bias = reader.array<float>(request.columns);
    request.head.weight = weight.data();
    request.head.bias = bias.data();
  }
  template <class Segment>
  void read_segments(Reader& reader, std::size_t count) {
    std::vector<Segment> segments(count);
    for (Segment& segment : segments) {
      segment.n = reader.size();
      total += segment.n;
      stored.emplace_back();
      read_segment(reader, segment, stored.back());
    }
    request.store = std::move(segments);
  }
  void read_segment(Reader& reader, DenseRows& segment, Stored& data) const {
    data.numbers = reader.numbers(times(segment.n, request.columns));
    segment.residuals = data.numbers.numbers();
  }
  void read_segment(Reader& reader, SparseRows& segment, Stored& data) const {
    segment.width = reader.size();
    data.index = reader.array<std::int32_t>(times(segment.n, segment.width));
    data.numbers = reader.numbers(data.index.size());
    data.rest = reader.array<float>(segment.n);
    segment.index = data.index.data();
    segment.value = data.numbers.numbers();
    segment.rest = data.rest.data();
  }
  void read_segment(Reader& reader, HeadRows& segment, Stored& data) const {
    data.numbers = reader.numbers(times(segment.n, request.head.d));
    data.labels = reader.array<std::int64_t>(segment.n);
    segment.keys = data.numbers.numbers();
    segment.labels = data.labels.data();
  }

  void read_segment(Reader& reader, LabelRows& segment, Stored& data) const {
    data.labels = reader.array<std::int64_t>(segment.n);
    segment.labels = data.labels.data();
  }

  AggregateRequest request;
  std::vector<Stored> stored;
  std::unique_ptr<WeighedRows> weighed;
  std::size_t total = 0;
  Floats weight, bias;
  Integers positions, select;
  Doubles distances, base, strengths, wanted;
};

}  // namespace

void check_weights(Context& context, Reader& reader) {
  const std::size_t q = reader.size(), k = reader.size();
  const auto sigma = reader.value<double>();
  const Doubles distances = reader.array<double>(times(q, k));
  const Integers positions = reader.array<std::int64_t>(distances.size());
  const WeighedRows rows(reader);
  const Doubles wanted = reader.array<double>(distances.size());
  const Doubles wanted_totals = reader.array<double>(q);
  Doubles out(distances.size()), totals(q, 1.0);  // padding weighs 0
  const NeighbourWeights weigh(sigma, rows.segments, context.kernels);
  for (std::size_t i = 0; i < q && k > 0; ++i)
    totals[i] = weigh(&distances[i * k], &positions[i * k], k, &out[i * k]).total;
  context.count(context.same(out, wanted, "weights"));
  context.count(context.same(totals, wanted_totals, "sums of weights"));
}

void check_aggregate(Context& context, Reader& reader) {
  const AggregateCase given(reader);
  AggregateRequest request = given.request;
  check_output(context, given.wanted, [&](const Execution& execution, Doubles& out) {
    if (request.add_to_out) out = given.base;
    aggregate(request, execution, out.data());
  });
}

}  // namespace resmem
