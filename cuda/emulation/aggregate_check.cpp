// Makes of neighbours in the emulation what Python asks for, and compares it with what the core
// does. Shapes, numbers and what is asked for are random, and chosen by a seed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "../../cpp/residuals/aggregate.h"
#include "../../cpp/residuals/residual_store.h"
#include "../../cpp/residuals/simplex.h"
#include "../aggregate.h"
#include "../launch.h"

namespace resmem {
namespace {

using device::Feature;
using device::OutputKind;
using Random = std::mt19937_64;

template <class T>
T one_of(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}
std::size_t below(Random& random, std::size_t n) { return random() % n; }
bool happens(Random& random, unsigned in) { return random() % in == 0; }
double normal(Random& random) { return std::normal_distribution<double>()(random); }
double uniform(Random& random) { return std::uniform_real_distribution<double>()(random); }

// ---- Cases -------------------------------------------------------------------------------------

enum class Store { dense, sparse, labels };

struct PlainSegment {
  std::size_t n;
  std::vector<float> floats;  // residuals or values
  std::vector<double> doubles;
  std::vector<std::uint16_t> halves;
  std::vector<std::int32_t> index;
  std::vector<float> rest;
  std::vector<std::int64_t> labels, classes;
  std::vector<double> weights;  // empty: each row weighs 1
  std::vector<float> keys;      // (n, kDimensions)
};
constexpr std::size_t kDimensions = 5;
constexpr double kStep = 0.25;  // of distances and of the edges of gates, so that some are equal

struct Case {
  Store store;
  NumberType type;
  std::size_t columns, width, q, k;  // width of sparse rows
  std::vector<PlainSegment> segments;
  std::size_t rows = 0;
  double sigma, strength, temperature;
  std::vector<double> strengths;
  OutputKind kind;
  std::vector<float> outputs;
  bool interpolate, weighted;
  std::vector<device::DeviceGate::Step> gate;
  bool mapped;
  SimplexMap map;
  std::vector<std::int64_t> select;
  std::size_t selected;
  bool selects, argmax, searched;
  std::vector<float> queries;
  std::vector<double> distances;
  std::vector<std::int64_t> positions;
  std::size_t forced;

  std::size_t shown() const { return selects ? selected : columns; }
  bool looks_at(Feature feature) const {
    return std::any_of(gate.begin(), gate.end(),
                       [=](const auto& step) { return step.feature == feature; });
  }
};

// Returns classes (n, width), those of a row distinct, or, in damaged rows, any.
std::vector<std::int32_t> classes_kept(Random& random, std::size_t n, std::size_t width,
                                       std::size_t columns) {
  std::vector<std::int32_t> all(columns), kept;
  std::iota(all.begin(), all.end(), 0);
  const bool damaged = happens(random, 3);
  for (std::size_t row = 0; row < n; ++row) {
    std::shuffle(all.begin(), all.end(), random);
    for (std::size_t i = 0; i < width; ++i)
      kept.push_back(damaged ? all[below(random, columns)] : all[i]);
  }
  return kept;
}

PlainSegment segment_of(Random& random, const Case& of) {
  PlainSegment made;
  made.n = one_of<std::size_t>(random, {0, 1, 3, 20, 20, 50});
  const std::size_t width = of.store == Store::dense ? of.columns : of.width;
  for (std::size_t i = 0; i < made.n * width; ++i) {
    made.doubles.push_back(normal(random));
    made.floats.push_back(static_cast<float>(made.doubles.back()));
    made.halves.push_back(static_cast<std::uint16_t>(random() & 0xBBFF));  // finite
  }
  made.index = classes_kept(random, made.n, of.width, of.columns);
  for (std::size_t i = 0; i < made.n; ++i) {
    made.rest.push_back(static_cast<float>(uniform(random)));
    made.labels.push_back(static_cast<std::int64_t>(below(random, of.columns)));
    made.classes.push_back(static_cast<std::int64_t>(below(random, of.columns)));
    made.weights.push_back(std::ldexp(uniform(random) + 0.1, static_cast<int>(below(random, 9))));
  }
  for (std::size_t i = 0; i < made.n * kDimensions; ++i)
    made.keys.push_back(static_cast<float>(below(random, 5)));
  if (happens(random, 3)) made.weights.clear();
  return made;
}

// Fills the neighbours of all queries: rows at random distances, some of them equal.
void take_random_neighbours(Random& random, Case& of) {
  for (std::size_t i = 0; i < of.q; ++i) {
    const std::size_t there = of.rows == 0 ? 0 : one_of<std::size_t>(random, {0, 1, of.k, of.k});
    double distance = 0;
    for (std::size_t j = 0; j < of.k; ++j) {
      if (happens(random, 2)) distance += happens(random, 2) ? uniform(random) : kStep;
      of.distances.push_back(j < there ? distance : HUGE_VAL);
      of.positions.push_back(j < there ? static_cast<std::int64_t>(below(random, of.rows)) : -1);
    }
  }
}

// Finds the nearest rows of all queries. Keys are small integers, so that no sum is rounded.
void take_nearest(Random& random, Case& of) {
  for (std::size_t i = 0; i < of.q * kDimensions; ++i)
    of.queries.push_back(static_cast<float>(below(random, 5)));
  for (std::size_t i = 0; i < of.q; ++i) {
    std::vector<std::pair<double, std::int64_t>> all;
    for (const PlainSegment& segment : of.segments)
      for (std::size_t r = 0; r < segment.n; ++r) {
        double sum = 0;
        for (std::size_t c = 0; c < kDimensions; ++c) {
          const double t = static_cast<double>(of.queries[i * kDimensions + c]) -
                           static_cast<double>(segment.keys[r * kDimensions + c]);
          sum += t * t;
        }
        all.emplace_back(std::sqrt(sum), static_cast<std::int64_t>(all.size()));
      }
    std::sort(all.begin(), all.end());
    all.resize(of.k, {HUGE_VAL, -1});
    for (const auto& [distance, position] : all) {
      of.distances.push_back(distance);
      of.positions.push_back(position);
    }
  }
}

void take_outputs(Random& random, Case& of) {
  if (of.kind == OutputKind::none || of.kind == OutputKind::constant) return;
  for (std::size_t i = 0; i < of.q; ++i) {
    double sum = 0;
    std::vector<double> row(of.columns);
    for (double& each : row) {
      each = happens(random, 4) ? 0 : uniform(random);
      sum += each;
    }
    row[0] += sum == 0 ? 1 : 0;
    sum += sum == 0 ? 1 : 0;
    for (const double each : row) {
      const double value = of.kind == OutputKind::probabilities ? each / sum
                           : of.kind == OutputKind::values      ? normal(random)
                           : each == 0                          ? -HUGE_VAL
                                                                : each * 30;
      of.outputs.push_back(static_cast<float>(value));
    }
  }
}

void take_gate(Random& random, Case& of) {
  std::vector<Feature> features = {Feature::distance, Feature::agreement};
  if (of.kind != OutputKind::none) features.push_back(Feature::confidence);
  std::shuffle(features.begin(), features.end(), random);
  features.resize(1 + below(random, features.size()));
  for (const Feature feature : features) {
    device::DeviceGate::Step step;
    step.feature = feature;
    double edge = 0;
    for (std::size_t i = below(random, 4); i > 0; --i)
      step.edges.push_back(edge += happens(random, 2) ? uniform(random) : kStep);
    for (std::size_t i = 0; i <= step.edges.size(); ++i) step.factors.push_back(uniform(random));
    of.gate.push_back(step);
  }
}

Case case_of(Random& random) {
  Case made;
  made.store = one_of(random, {Store::dense, Store::sparse, Store::labels});
  made.type = one_of(random, {NumberType::float32, NumberType::float16});
  if (made.store == Store::dense && happens(random, 3)) made.type = NumberType::float64;
  made.columns = one_of<std::size_t>(random, {1, 2, 3, 8, 10, 33, 70, 300});
  made.width = 1 + below(random, std::min<std::size_t>(made.columns, 40));
  made.q = one_of<std::size_t>(random, {1, 2, 5, 9});
  made.k = one_of<std::size_t>(random, {1, 2, 8, 9, 32, 33, 70});
  made.sigma = one_of(random, {0.2, 1.0, HUGE_VAL});
  made.strength = one_of(random, {1.0, 0.4, 0.0, -0.5});
  made.temperature = one_of(random, {1.0, 0.7});
  made.kind = one_of(random, {OutputKind::none, OutputKind::logits, OutputKind::probabilities,
                              OutputKind::values, OutputKind::constant});
  made.interpolate = made.kind != OutputKind::none && happens(random, 3);
  made.weighted = happens(random, 2);
  const std::size_t segments = happens(random, 8) ? 40 : 1 + below(random, 3);
  for (std::size_t s = 0; s < segments; ++s) {
    made.segments.push_back(segment_of(random, made));
    made.rows += made.segments.back().n;
  }
  take_outputs(random, made);
  if (happens(random, 3))
    take_gate(random, made);
  else if (happens(random, 3))
    for (std::size_t i = 0; i < made.q; ++i) made.strengths.push_back(normal(random));
  made.mapped = happens(random, 2);
  made.map.kind = one_of(random, {SimplexMap::Kind::clip, SimplexMap::Kind::project});
  if (made.kind != OutputKind::none && happens(random, 3)) made.map.kind = SimplexMap::Kind::keep;
  made.map.floor = one_of(random, {1e-6, 0.1, 0.5});
  made.argmax = happens(random, 3);
  made.selects = !made.argmax && happens(random, 2);
  made.selected = below(random, 5);
  for (std::size_t i = 0; i < made.q * made.selected; ++i)
    made.select.push_back(static_cast<std::int64_t>(below(random, made.columns)));
  made.searched = segments < 10 && happens(random, 3);
  made.searched ? take_nearest(random, made) : take_random_neighbours(random, made);
  made.forced = one_of<std::size_t>(random, {0, 0, 1, 2});
  return made;
}

// ---- What the core makes of them ---------------------------------------------------------------

const Execution& execution() {
  static Interrupt never;
  static const Execution only{scalar_kernels(), 1, never};
  return only;
}

const void* numbers_of(const PlainSegment& segment, NumberType type) {
  return type == NumberType::float64   ? static_cast<const void*>(segment.doubles.data())
         : type == NumberType::float32 ? static_cast<const void*>(segment.floats.data())
                                       : segment.halves.data();
}

ResidualStore store_of(const Case& of) {
  std::vector<DenseRows> dense;
  std::vector<SparseRows> sparse;
  std::vector<LabelRows> labels;
  for (const PlainSegment& segment : of.segments) {
    const Numbers numbers{numbers_of(segment, of.type), of.type};
    dense.push_back({numbers, segment.n});
    sparse.push_back({segment.index.data(), numbers, segment.rest.data(), segment.n, of.width});
    labels.push_back({segment.labels.data(), segment.n});
  }
  if (of.store == Store::dense) return dense;
  if (of.store == Store::sparse) return sparse;
  return labels;
}

std::vector<double> base_of(const Case& of) {
  const std::size_t cells = of.q * of.columns;
  if (of.kind == OutputKind::constant) return std::vector<double>(cells, 0.25);
  std::vector<double> base(of.outputs.begin(), of.outputs.end());
  if (of.kind == OutputKind::logits)
    softmax_rows(of.outputs.data(), of.q, of.columns, of.temperature, execution(), base.data());
  return base;
}

AggregateRequest core_request(const Case& of) {
  AggregateRequest request;
  request.columns = of.columns;
  request.distances = of.distances.data();
  request.positions = of.positions.data();
  request.q = of.q;
  request.k = of.k;
  request.sigma = of.sigma;
  for (const PlainSegment& segment : of.segments)
    if (of.weighted)
      request.weights.push_back(
          {segment.weights.empty() ? nullptr : segment.weights.data(), segment.n});
  return request;
}

std::vector<double> gated(const Case& of, const std::vector<double>& base) {
  AggregateRequest request = core_request(of);
  std::vector<LabelRows> classes;
  for (const PlainSegment& segment : of.segments)
    classes.push_back({segment.classes.data(), segment.n});
  request.store = classes;
  std::vector<double> shares(of.q * of.columns), strengths;
  aggregate(request, execution(), shares.data());
  const auto largest = [&](const std::vector<double>& rows, std::size_t i) {
    const auto first = rows.begin() + static_cast<std::ptrdiff_t>(i * of.columns);
    return *std::max_element(first, first + static_cast<std::ptrdiff_t>(of.columns));
  };
  for (std::size_t i = 0; i < of.q; ++i) {
    double factor = 1;
    for (const auto& step : of.gate) {
      const double value = step.feature == Feature::distance     ? of.distances[i * of.k]
                           : step.feature == Feature::confidence ? largest(base, i)
                                                                 : largest(shares, i);
      const auto at = std::lower_bound(step.edges.begin(), step.edges.end(), value);
      factor *= step.factors[static_cast<std::size_t>(at - step.edges.begin())];
    }
    strengths.push_back(of.strength * factor);
  }
  return strengths;
}

struct Made {
  std::vector<double> values;
  std::vector<std::int64_t> largest;
};

// Returns the columns that are selected of all.
std::vector<double> picked(const Case& of, const std::vector<double>& all) {
  std::vector<double> some;
  for (std::size_t i = 0; i < of.q * of.selected; ++i)
    some.push_back(all[i / of.selected * of.columns + static_cast<std::size_t>(of.select[i])]);
  return some;
}

Made made_by_core(const Case& of) {
  const std::vector<double> base = base_of(of);
  const std::vector<double> strengths = of.gate.empty() ? of.strengths : gated(of, base);
  AggregateRequest request = core_request(of);
  request.store = store_of(of);
  request.strength = of.strength;
  request.strengths = strengths.empty() ? nullptr : strengths.data();
  request.add_to_out = !base.empty();
  request.interpolate = of.interpolate;
  const bool early = of.selects && !of.mapped;
  if (early) {
    request.select = of.select.data();
    request.selected = of.selected;
  }
  static constexpr std::int64_t kNone = 0;
  if (early && of.selected == 0) request.select = &kNone;
  Made made;
  made.values = base.empty() ? std::vector<double>(of.q * request.width())
                : early      ? picked(of, base)
                             : base;
  aggregate(request, execution(), made.values.data());
  if (of.mapped)
    map_to_simplex(
        of.map,
        {made.values.data(), base.empty() ? nullptr : base.data(), of.strength, of.q, of.columns},
        execution());
  if (of.mapped && of.selects) made.values = picked(of, made.values);
  for (std::size_t i = 0; of.argmax && i < of.q; ++i) {
    const auto first = made.values.begin() + static_cast<std::ptrdiff_t>(i * of.columns);
    made.largest.push_back(
        std::max_element(first, first + static_cast<std::ptrdiff_t>(of.columns)) - first);
  }
  if (of.argmax) made.values.clear();
  return made;
}

// ---- What the device makes of them -------------------------------------------------------------

// What lies on the device for a case, and where.
struct Held {
  std::vector<device::Memory> memory;
  std::vector<std::unique_ptr<device::DenseResiduals>> dense;
  std::vector<std::unique_ptr<device::SparseResiduals>> sparse;
  std::vector<std::unique_ptr<device::RowLabels>> labels, classes;
  std::vector<std::unique_ptr<device::RowWeights>> weights;
  std::vector<std::unique_ptr<device::DeviceRows>> keys;
  std::unique_ptr<device::DeviceGate> gate;

  // Returns an array where it lies: on the host, or in a copy on the device.
  template <class T>
  device::Placed<const T> placed(const std::vector<T>& array, bool on_device) {
    if (!on_device || array.empty()) return {array.data(), false};
    memory.emplace_back(device::MemorySource{}, array.size() * sizeof(T));
    device::copy_in({}, memory.back().of<void>(), array.data(), memory.back().bytes());
    return {memory.back().of<T>(), true};
  }
};

// Calls extend(n) for a few numbers of rows, the last of which is all.
template <class Extend>
void in_steps(Random& random, std::size_t n, const Extend& extend) {
  for (std::size_t end = below(random, n + 1); end < n; end += 1 + below(random, n)) extend(end);
  extend(n);
}

void bring_rows(Random& random, const Case& of, const PlainSegment& segment, Held& held,
                device::DeviceAggregate& request) {
  const device::MemorySource kept;
  const std::size_t n = segment.n;
  const void* numbers = numbers_of(segment, of.type);
  if (of.store == Store::dense) {
    held.dense.push_back(std::make_unique<device::DenseResiduals>(kept, of.type, of.columns));
    in_steps(random, n, [&](std::size_t end) { held.dense.back()->extend({numbers, false}, end); });
    request.dense.push_back(held.dense.back().get());
  } else if (of.store == Store::sparse) {
    held.sparse.push_back(
        std::make_unique<device::SparseResiduals>(kept, of.type, of.columns, of.width));
    in_steps(random, n, [&](std::size_t end) {
      held.sparse.back()->extend(segment.index.data(), numbers, segment.rest.data(), end);
    });
    request.sparse.push_back(held.sparse.back().get());
  } else {
    held.labels.push_back(std::make_unique<device::RowLabels>(kept, of.columns));
    in_steps(random, n,
             [&](std::size_t end) { held.labels.back()->extend(segment.labels.data(), end); });
    request.labels.push_back(held.labels.back().get());
  }
  request.rows.push_back(n);
  if (of.looks_at(Feature::agreement)) {
    held.classes.push_back(std::make_unique<device::RowLabels>(kept, of.columns));
    held.classes.back()->extend(segment.classes.data(), n);
    request.classes.push_back(held.classes.back().get());
  }
  if (!of.weighted) return;
  held.weights.push_back(std::make_unique<device::RowWeights>(kept));
  if (!segment.weights.empty()) held.weights.back()->extend(segment.weights.data(), n);
  request.weights.push_back(segment.weights.empty() ? nullptr : held.weights.back().get());
}

device::DeviceAggregate device_request(Random& random, const Case& of, Held& held) {
  device::DeviceAggregate request;
  request.q = of.q;
  request.columns = of.columns;
  request.sigma = of.sigma;
  request.strength = of.strength;
  request.output_kind = of.kind;
  request.temperature = of.temperature;
  request.output_value = 0.25;
  request.interpolate = of.interpolate;
  for (const PlainSegment& segment : of.segments) bring_rows(random, of, segment, held, request);
  if (!of.strengths.empty()) request.strengths = held.placed(of.strengths, happens(random, 2));
  if (!of.outputs.empty()) {
    const auto outputs = held.placed(of.outputs, happens(random, 2));
    request.outputs = {outputs.address, outputs.on_device};
  }
  if (!of.gate.empty()) {
    held.gate = std::make_unique<device::DeviceGate>(0, of.gate);
    request.gate = held.gate.get();
  }
  if (of.mapped) request.map = of.map;
  static constexpr std::int64_t kNone = 0;
  if (of.selects) request.select = held.placed(of.select, happens(random, 2));
  if (of.selects && of.selected == 0) request.select.address = &kNone;
  request.selected = of.selected;
  return request;
}

void run(Random& random, const Case& of, Held& held, const device::DeviceAggregate& request) {
  const auto poll = [] {};
  if (!of.searched) {
    const device::GivenNeighbours given = {held.placed(of.distances, happens(random, 2)),
                                           held.placed(of.positions, happens(random, 2)), of.k,
                                           false};
    device::DeviceCall call;
    call.forced_queries = of.forced;
    device::aggregate(request, given, call, poll);
    return;
  }
  device::DeviceSearch search;
  std::int64_t first = 0;
  for (const PlainSegment& segment : of.segments) {
    held.keys.push_back(std::make_unique<device::DeviceRows>(
        device::MemorySource{}, NumberType::float32, kDimensions, Metric::euclidean, 8));
    device::GivenRows given;
    given.keys = segment.keys.data();
    given.n = segment.n;
    given.first_id = first;
    held.keys.back()->extend(given);
    search.segments.push_back({held.keys.back().get(), segment.n, static_cast<std::size_t>(first)});
    first += static_cast<std::int64_t>(segment.n);
  }
  const auto queries = held.placed(of.queries, happens(random, 2));
  search.queries = queries.address;
  search.queries_on_device = queries.on_device;
  search.q = of.q;
  search.d = kDimensions;
  search.k = of.k;
  device::correct(search, request, of.forced, poll);
}

// Runs a case whose results go to the host or, of T, to an array on the device.
template <class T>
std::vector<T> filled(Random& random, const Case& of, std::size_t size,
                      device::Placed<T> device::DeviceAggregate::*target) {
  Held held;
  device::DeviceAggregate request = device_request(random, of, held);
  std::vector<T> host(size, T(-7));
  if (happens(random, 2)) {
    request.*target = {host.data(), false};
    run(random, of, held, request);
    return host;
  }
  const device::Memory there({}, std::max<std::size_t>(1, size) * sizeof(T));
  request.*target = {there.of<T>(), true};
  run(random, of, held, request);
  device::copy_out({}, host.data(), there.of<void>(), size * sizeof(T));
  device::wait({});
  return host;
}

bool is_made(std::uint64_t seed) {
  Random random(seed);
  const Case of = case_of(random);
  simt::emulation_seed() = seed;
  const Made wanted = made_by_core(of);
  Made made;
  if (of.argmax)
    made.largest = filled(random, of, of.q, &device::DeviceAggregate::largest);
  else
    made.values = filled(random, of, of.q * of.shown(), &device::DeviceAggregate::out);
  const bool same =
      wanted.largest == made.largest && wanted.values.size() == made.values.size() &&
      (wanted.values.empty() || std::memcmp(wanted.values.data(), made.values.data(),
                                            wanted.values.size() * sizeof(double)) == 0);
  if (!same)
    std::printf("FAILED  what is made of neighbours with seed %llu\n",
                static_cast<unsigned long long>(seed));
  return same;
}

// Tells whether rows that one thread changes answer others meanwhile, as they hold no lock while
// they are brought. Whoever calls from Python would wait with the GIL.
bool rows_answer_while_they_grow() {
  const std::vector<float> numbers(64, 1);
  const std::vector<std::int64_t> times(16, 1);
  device::DenseResiduals residuals({}, NumberType::float32, 2);
  device::DeviceRows keys({}, NumberType::float32, 2, Metric::euclidean, 8);
  std::vector<std::thread> askers;
  bool answered = true;
  emulation::faults().during_copy = [&] {
    const auto told = std::make_shared<std::promise<void>>();
    askers.emplace_back([&residuals, &keys, told] {
      residuals.n();
      keys.n();
      told->set_value();
    });
    answered &= told->get_future().wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  };
  device::GivenRows given;
  given.keys = numbers.data();
  for (given.n = 8; given.n <= 16; given.n += 8) {
    residuals.extend({numbers.data(), false}, given.n);
    keys.extend(given);
    keys.bring(device::Attribute::time, times.data(), given.n);
    keys.remove(times.data(), times.data(), 1);
  }
  emulation::faults().during_copy = nullptr;
  for (std::thread& each : askers) each.join();
  if (!answered) std::printf("FAILED  rows do not answer while they grow\n");
  return answered && askers.size() >= 8;
}

}  // namespace
}  // namespace resmem

// aggregate_check FIRST COUNT: cases with that many seeds from the first one on.
int main(int count, char** arguments) {
  const std::uint64_t first = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  const std::uint64_t cases = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 100;
  std::uint64_t failed = resmem::rows_answer_while_they_grow() ? 0 : 1;
  for (std::uint64_t seed = first; seed < first + cases; ++seed)
    failed += resmem::is_made(seed) ? 0 : 1;
  if (failed > 0) return 1;
  std::printf("passed  %llu aggregations\n", static_cast<unsigned long long>(cases));
  return 0;
}
