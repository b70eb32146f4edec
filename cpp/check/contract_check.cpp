// The core against cases of the oracle, without Python:
//
//   python tests/core_cases.py cases.bin && contract_check cases.bin
//
// Every case runs on every kernel table of this machine, on every path there is to it, and must
// give the oracle's bits. tests/core_cases.py documents the file. Each table's canonical kernels
// are also held against the same arithmetic over plain lanes (canonical_lanes.h).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../base/cpu.h"
#include "../engine/search.h"
#include "../index/cascade/cascade.h"
#include "../index/tree/tree.h"
#include "../residuals/aggregate.h"
#include "../residuals/residual_store.h"
#include "../residuals/simplex.h"
#include "../residuals/sweep.h"
#include "canonical_lanes.h"

namespace resmem {
namespace {

constexpr std::size_t kThreads[] = {1, 2, 7};
constexpr Blocks kSmallBlocks[] = {{1, 1, 4, 1}, {5, 12, 8, 9}, {17, 24, 16, 40}, {16, 48, 0, 2}};
constexpr std::size_t kHeavyCase = 500000;  // multiplications above which fewer settings are tried
constexpr std::size_t kFailuresShown = 20;  // per table
constexpr std::int8_t kBlank = -77;         // neither padding nor a result of any case

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Integers = std::vector<std::int64_t>;
using Halves = std::vector<std::uint16_t>;

void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(std::string("malformed file: ") + message);
}

std::size_t times(std::size_t a, std::size_t b) {
  require(b == 0 || a <= std::numeric_limits<std::size_t>::max() / b, "a shape overflows");
  return a * b;
}

// Owns what Numbers points to.
struct StoredVector {
  NumberType type = NumberType::float32;
  Floats floats;
  Halves halves;
  std::size_t size() const { return type == NumberType::float32 ? floats.size() : halves.size(); }
  Numbers numbers() const {
    if (type == NumberType::float32) return {floats.data(), type};
    return {halves.data(), type};
  }
};

class Reader {
 public:
  explicit Reader(const std::vector<char>& bytes) : bytes_(bytes) {}
  bool at_end() const { return at_ == bytes_.size(); }
  template <class T>
  T value() {
    require(sizeof(T) <= bytes_.size() - at_, "it is cut off");
    return take<T>(1)[0];
  }
  std::size_t size() { return static_cast<std::size_t>(value<std::uint64_t>()); }
  template <class T>
  std::vector<T> array() {
    const std::size_t count = size();
    require(count <= (bytes_.size() - at_) / sizeof(T), "an array is cut off");
    return take<T>(count);
  }
  template <class T>
  std::vector<T> array(std::size_t count) {
    std::vector<T> result = array<T>();
    require(result.size() == count, "an array has not the size of its shape");
    return result;
  }
  NumberType type() {
    const std::size_t code = size();
    require(code <= 2, "unknown type of numbers");
    return static_cast<NumberType>(code);
  }
  StoredVector numbers(std::size_t count) {
    StoredVector result;
    result.type = type();
    if (result.type == NumberType::float32)
      result.floats = array<float>(count);
    else
      result.halves = array<std::uint16_t>(count);
    return result;
  }
  std::string text() {
    const std::vector<char> bytes = array<char>();
    return {bytes.begin(), bytes.end()};
  }

 private:
  // Copied, so that the memory checkers see a read past the end.
  template <class T>
  std::vector<T> take(std::size_t count) {
    std::vector<T> result(count);
    if (count > 0) std::memcpy(result.data(), bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return result;
  }

  const std::vector<char>& bytes_;
  std::size_t at_ = 0;
};

// What runs now, for messages and counts.
struct Context {
  explicit Context(const KernelTable& table) : kernels(table) {}
  template <class T>
  bool same(const std::vector<T>& got, const std::vector<T>& wanted, const char* what) {
    if (got.empty() || std::memcmp(got.data(), wanted.data(), got.size() * sizeof(T)) == 0)
      return true;
    std::size_t at = 0;
    while (std::memcmp(&got[at], &wanted[at], sizeof(T)) == 0) ++at;
    std::ostringstream message;
    message.precision(std::numeric_limits<T>::max_digits10);
    // The plus makes numbers of bytes, which would come out as characters.
    message << what << '[' << at << "] is " << +got[at] << ", wanted " << +wanted[at];
    return fail(message.str());
  }
  bool fail(const std::string& message) {
    if (++shown <= kFailuresShown)
      std::printf("FAILED %s, %s, %s: %s\n", kernels.name, name.c_str(), path.c_str(),
                  message.c_str());
    return false;
  }
  void count(bool good) { ++(good ? passed : failed); }

  const KernelTable& kernels;
  std::string name, path;
  std::size_t number = 0, passed = 0, failed = 0, shown = 0;
  std::map<std::string, std::size_t> searches;  // by strategy
};

template <class T, class Body>
void check_output(Context& context, const std::vector<T>& wanted, Body&& body) {
  for (const std::size_t threads : kThreads) {
    context.path = std::to_string(threads) + " threads";
    std::vector<T> out(wanted.size(), T{kBlank});
    Interrupt stop;
    body(threads, out, stop);
    context.count(context.same(out, wanted, "output"));
  }
}

struct Path {
  Strategy strategy;
  FilterKind filter;
  bool euclidean_only;
  const char* name;
};
constexpr std::size_t kCertifiedDepth = std::size_t{1} << 19;  // deeper, the exact path answers
constexpr Path kPaths[] = {
    {Strategy::automatic, FilterKind::automatic, false, "automatic"},
    {Strategy::exact, FilterKind::automatic, false, "exact"},
    {Strategy::by_queries, FilterKind::dot, false, "by_queries"},
    {Strategy::by_rows, FilterKind::dot, false, "by_rows"},
    {Strategy::by_queries, FilterKind::difference, true, "by_queries"},
    {Strategy::by_rows, FilterKind::difference, true, "by_rows"},
    {Strategy::stream, FilterKind::automatic, true, "stream"},
};

template <class T>
T max_abs(const std::vector<T>& values) {
  T largest = 0;
  for (const T x : values) {
    require(std::isfinite(x), "a vector is not finite");
    largest = std::max(largest, std::fabs(x));
  }
  return largest;
}

Floats read(const StoredVector& stored) {
  Floats scratch(stored.size());
  const float* values =
      stored.numbers().read(0, scratch.size(), scratch.data(), *available_kernels()[0]);
  return {values, values + scratch.size()};
}

// Owns what a request points to.
struct SearchCase {
  struct Stored {
    StoredVector keys;
    Integers ids, died;
  };
  explicit SearchCase(Reader& reader) {
    const std::size_t metric = reader.size();
    require(metric < 4, "unknown metric");
    request.metric = static_cast<Metric>(metric);
    request.q = reader.size();
    request.d = reader.size();
    request.k = reader.size();
    require(request.d > 0, "no dimension");
    queries = reader.array<float>(times(request.q, request.d));
    request.queries = queries.data();
    request.queries_max_abs = max_abs(queries);
    const std::size_t segments = reader.size();
    for (std::size_t s = 0; s < segments; ++s) {
      Segment segment;
      segment.n = reader.size();
      segment.first_id = reader.value<std::int64_t>();
      stored.push_back({reader.numbers(times(segment.n, request.d)), reader.array<std::int64_t>(),
                        reader.array<std::int64_t>()});
      const Stored& data = stored.back();  // moved with the vector, but not its arrays
      require(data.ids.empty() || data.ids.size() == segment.n, "not an id per row");
      require(data.died.empty() || data.died.size() == segment.n, "not a version per row");
      segment.keys = data.keys.numbers();
      segment.ids = data.ids.empty() ? nullptr : data.ids.data();
      segment.died = data.died.empty() ? nullptr : data.died.data();
      segment.max_abs = max_abs(read(data.keys));
      request.segments.push_back(segment);
      total += segment.n;
    }
    request.version = reader.value<std::int64_t>();
    request.exclude_width = reader.size();
    exclude = reader.array<std::int64_t>(times(request.q, request.exclude_width));
    request.exclude = exclude.empty() ? nullptr : exclude.data();
    values = reader.array<double>(times(request.q, request.k));
    ids = reader.array<std::int64_t>(values.size());
  }

  std::int64_t id_at(std::int64_t position) const {
    if (position < 0) return -1;
    auto row = static_cast<std::size_t>(position);
    for (const Segment& segment : request.segments) {
      if (row < segment.n) return segment.id(row);
      row -= segment.n;
    }
    return -2;  // beyond all rows
  }

  SearchRequest request;
  Floats queries;
  std::vector<Stored> stored;
  std::size_t total = 0;
  Integers exclude, ids;
  Doubles values;
};

bool search_once(Context& context, const SearchCase& search_case, const SearchRequest& request,
                 const Path& path) {
  Doubles values(search_case.values.size(), kBlank);
  Integers ids(values.size(), kBlank), positions = ids;
  Interrupt stop;
  SearchStats stats;
  try {
    stats = search(request, context.kernels, {values.data(), ids.data(), positions.data()}, stop);
  } catch (const std::exception& error) {
    return context.fail(error.what());
  }
  for (std::int64_t& position : positions) position = search_case.id_at(position);
  if (!context.same(ids, search_case.ids, "ids") ||
      !context.same(values, search_case.values, "values") ||
      !context.same(positions, search_case.ids, "ids of positions"))
    return false;
  if (values.empty()) return true;  // nothing runs
  ++context.searches[stats.strategy];
  const bool forced = path.strategy != Strategy::automatic && request.d <= kCertifiedDepth;
  return (stats.isa == context.kernels.name && (!forced || stats.strategy == path.name)) ||
         context.fail("ran " + stats.strategy + " on " + stats.isa);
}

// A way to index a segment of float32 rows for the request; none where there is no way.
struct IndexBuild {
  const char* kind;  // IndexKind::name
  const char* path;
  std::unique_ptr<RowIndex> (*build)(const Segment& segment, const SearchRequest& request,
                                     const KernelTable& kernels);
};

template <bool kCodedRows>
std::unique_ptr<RowIndex> make_cascade(const Segment& segment, const SearchRequest& request,
                                       const KernelTable& kernels) {
  if (!can_be_coded(segment.max_abs)) return nullptr;
  Interrupt stop;
  return std::make_unique<Cascade>(
      build_cascade(segment, request.d, {request.metric, 8, 3, kCodedRows}, kernels, 2, stop));
}

template <std::size_t kLeaf>
std::unique_ptr<RowIndex> make_tree(const Segment& segment, const SearchRequest& request,
                                    const KernelTable& kernels) {
  if (request.d > kMostTreeDimensions) return nullptr;
  Interrupt stop;
  return std::make_unique<Tree>(build_tree(segment, request.d, kLeaf, kernels, 2, stop));
}

constexpr IndexBuild kIndexBuilds[] = {
    {"cascade", "cascade", make_cascade<false>},
    {"cascade", "cascade with coded rows", make_cascade<true>},
    {"tree", "tree with leaves of 1", make_tree<1>},
    {"tree", "tree with leaves of 16", make_tree<16>},
};

// Through indexes of all segments that can have one, of every kind that serves the request.
void check_indexes(Context& context, const SearchCase& search_case) {
  for (const IndexBuild& way : kIndexBuilds) {
    context.path = way.path;
    SearchRequest request = search_case.request;
    std::vector<std::unique_ptr<RowIndex>> indexes;
    for (Segment& segment : request.segments) {
      if (segment.n == 0) continue;
      auto index = way.build(segment, request, context.kernels);
      if (index == nullptr || !index->serves(request)) continue;
      segment.index = index.get();
      indexes.push_back(std::move(index));
    }
    if (indexes.empty()) continue;
    for (const std::size_t threads : kThreads) {
      request.threads = threads;
      context.count(search_once(context, search_case, request, kPaths[0]));
    }
  }
}

void check_search(Context& context, Reader& reader) {
  const SearchCase search_case(reader);
  SearchRequest request = search_case.request;
  const Metric metric = request.metric;
  const bool euclidean = metric == Metric::euclidean || metric == Metric::sqeuclidean;
  const bool heavy = request.q * search_case.total * request.d > kHeavyCase;
  for (const Path& path : kPaths) {
    if (path.euclidean_only && !euclidean) continue;
    request.strategy = path.strategy;
    request.filter = path.filter;
    // Threads and blocks all with all; of a heavy case a half, in turn.
    for (std::size_t setting = 0; setting < 2 * std::size(kThreads); ++setting) {
      if (heavy && setting % 2 != context.number % 2) continue;
      request.threads = kThreads[setting % std::size(kThreads)];
      const bool small = setting >= std::size(kThreads);
      request.blocks = small ? kSmallBlocks[context.number % std::size(kSmallBlocks)] : Blocks{};
      context.path = std::string(path.name) +
                     (path.filter == FilterKind::difference ? " difference, " : ", ") +
                     std::to_string(request.threads) + (small ? " threads, small" : " threads");
      context.count(search_once(context, search_case, request, path));
    }
  }
  if (!heavy) check_indexes(context, search_case);
  for (std::size_t s = 0; s < search_case.stored.size(); ++s) {
    const Floats rows = read(search_case.stored[s].keys);
    const Doubles got{context.kernels.filter.max_abs(rows.data(), rows.size())};
    context.count(context.same(got, {request.segments[s].max_abs}, "max_abs"));
  }
}

// Float64 queries and one segment of float64 rows.
void check_wide_search(Context& context, Reader& reader) {
  SearchRequest request;
  request.metric = static_cast<Metric>(reader.size());
  request.q = reader.size();
  request.d = reader.size();
  request.k = reader.size();
  const auto queries = reader.array<double>(times(request.q, request.d));
  Segment segment;
  segment.n = reader.size();
  const auto rows = reader.array<double>(times(segment.n, request.d));
  const auto values = reader.array<double>(times(request.q, request.k));
  const auto ids = reader.array<std::int64_t>(values.size());
  request.queries64 = queries.data();
  request.queries_max_abs = max_abs(queries);
  segment.keys = {rows.data(), NumberType::float64};
  segment.max_abs = max_abs(rows);
  request.segments.push_back(segment);
  const bool euclidean =
      request.metric == Metric::euclidean || request.metric == Metric::sqeuclidean;
  const Doubles got{context.kernels.filter.max_abs64(rows.data(), rows.size())};
  context.count(context.same(got, {segment.max_abs}, "max_abs64"));
  for (const Path& path : kPaths) {
    if (path.strategy == Strategy::stream || (path.euclidean_only && !euclidean)) continue;
    request.strategy = path.strategy;
    request.filter = path.filter;
    for (const std::size_t threads : kThreads) {
      request.threads = threads;
      context.path = std::string(path.name) + ", " + std::to_string(threads) + " threads";
      Doubles found(values.size(), kBlank);
      Integers found_ids(values.size(), kBlank);
      Interrupt stop;
      search(request, context.kernels, {found.data(), found_ids.data(), nullptr}, stop);
      context.count(context.same(found_ids, ids, "ids") && context.same(found, values, "values"));
    }
  }
}

void check_function(Context& context, Reader& reader, void (*function)(double*, std::size_t)) {
  const Doubles x = reader.array<double>(), wanted = reader.array<double>(x.size());
  Doubles out = x;
  function(out.data(), out.size());
  context.count(context.same(out, wanted, "output"));
}

void check_exp(Context& context, Reader& reader) {
  check_function(context, reader, context.kernels.exact.exp);
}

void check_log(Context& context, Reader& reader) {
  check_function(context, reader, context.kernels.exact.log);
}

void check_softmax(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const auto temperature = reader.value<double>();
  const Floats logits = reader.array<float>(times(n, columns));
  const Doubles wanted = reader.array<double>(logits.size());
  check_output(context, wanted, [&](std::size_t threads, Doubles& out, Interrupt& stop) {
    softmax_rows(logits.data(), n, columns, temperature, context.kernels, threads, out.data(),
                 stop);
  });
}

// Owns what ClassRows points to.
struct ClassCase {
  ClassCase(Reader& reader, std::size_t n, std::size_t columns) {
    rows.n = n;
    rows.columns = columns;
    rows.temperature = reader.value<double>();
    outputs = reader.array<float>(times(n, columns));
    labels = reader.array<std::int64_t>(n);
    rows.outputs = outputs.data();
    rows.labels = labels.data();
  }
  ClassRows rows;
  Floats outputs;
  Integers labels;
};

// Room for numbers like those wanted, and whether they came.
struct StoredOutput {
  explicit StoredOutput(const StoredVector& like)
      : wanted(like), floats(like.floats.size()), halves(like.halves.size()) {
    if (like.type == NumberType::float32)
      numbers.floats = floats.data();
    else
      numbers.halves = halves.data();
  }
  bool same(Context& context) const {
    return context.same(floats, wanted.floats, "float32") &&
           context.same(halves, wanted.halves, "float16");
  }
  const StoredVector& wanted;
  Floats floats;
  Halves halves;
  StoredNumbers numbers;
};

template <class Body>
void for_threads(Context& context, Body&& body) {
  for (const std::size_t threads : kThreads) {
    context.path = std::to_string(threads) + " threads";
    Interrupt stop;
    context.count(body(threads, stop));
  }
}

void check_residuals(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const ClassCase given(reader, n, columns);
  const StoredVector wanted = reader.numbers(given.outputs.size());
  for_threads(context, [&](std::size_t threads, Interrupt& stop) {
    StoredOutput out(wanted);
    class_residuals(given.rows, context.kernels, threads, out.numbers, stop);
    return out.same(context);
  });
}

void check_sparse(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size(), others = reader.size();
  require(others < columns, "more classes than there are");
  const ClassCase given(reader, n, columns);
  const auto index = reader.array<std::int32_t>(times(n, others + 1));
  const StoredVector value = reader.numbers(index.size());
  const Floats rest = reader.array<float>(n);
  const auto error = reader.value<double>();
  for_threads(context, [&](std::size_t threads, Interrupt& stop) {
    std::vector<std::int32_t> got_index(index.size());
    StoredOutput got_value(value);
    Floats got_rest(n);
    const SparseResiduals out{got_index.data(), got_value.numbers, got_rest.data()};
    const Doubles got_error{
        sparse_residuals(given.rows, others, context.kernels, threads, out, stop)};
    return context.same(got_index, index, "index") && got_value.same(context) &&
           context.same(got_rest, rest, "rest") && context.same(got_error, {error}, "error");
  });
}

void check_logits(Context& context, Reader& reader) {
  const std::size_t n = reader.size();
  LinearHead head;
  head.columns = reader.size();
  head.d = reader.size();
  const StoredVector keys = reader.numbers(times(n, head.d));
  const Floats weight = reader.array<float>(times(head.columns, head.d));
  const Floats bias = reader.array<float>(head.columns);
  const Floats wanted = reader.array<float>(times(n, head.columns));
  head.weight = weight.data();
  head.bias = bias.data();
  const auto key = [&](std::size_t i, float* scratch) {
    return keys.numbers().read(i * head.d, head.d, scratch, context.kernels);
  };
  check_output(context, wanted, [&](std::size_t threads, Floats& out, Interrupt& stop) {
    head_logits(head, n, key, context.kernels, threads, out.data(), stop);
  });
}

void check_numbers(Context& context, Reader& reader) {
  const bool half = reader.type() == NumberType::float16;
  const KernelTable& k = context.kernels;
  const Halves halves = reader.array<std::uint16_t>();
  const Floats wide = reader.array<float>(halves.size()), x = reader.array<float>();
  const Halves narrow = reader.array<std::uint16_t>(x.size());
  Floats got_wide(wide.size());
  Halves got_narrow(narrow.size());
  (half ? k.numbers.widen_float16 : k.numbers.widen_bfloat16)(halves.data(), got_wide.data(),
                                                              wide.size());
  (half ? k.numbers.narrow_float16 : k.numbers.narrow_bfloat16)(x.data(), got_narrow.data(),
                                                                x.size());
  context.count(context.same(got_wide, wide, "widened"));
  context.count(context.same(got_narrow, narrow, "narrowed"));
}

SimplexMap map_of(std::int64_t kind, double floor) {
  require(kind >= 0 && kind <= 2, "no such map");
  return {static_cast<SimplexMap::Kind>(kind), floor};
}

void check_simplex(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const auto kind = reader.value<std::int64_t>();
  const SimplexMap map = map_of(kind, reader.value<double>());
  const auto strength = reader.value<double>();
  const Doubles values = reader.array<double>(times(n, columns));
  const Doubles base = reader.array<double>();  // empty: not known
  const Doubles wanted = reader.array<double>(values.size());
  require(base.empty() || base.size() == values.size(), "the base outputs have another shape");
  check_output(context, wanted, [&](std::size_t threads, Doubles& out, Interrupt& stop) {
    out = values;
    map_to_simplex(map, {out.data(), base.empty() ? nullptr : base.data(), strength, n, columns},
                   context.kernels, threads, stop);
  });
}

void check_weights(Context& context, Reader& reader) {
  const std::size_t q = reader.size(), k = reader.size();
  const auto sigma = reader.value<double>();
  const Doubles distances = reader.array<double>(times(q, k));
  const Integers positions = reader.array<std::int64_t>(distances.size());
  const Doubles wanted = reader.array<double>(distances.size());
  const Doubles wanted_totals = reader.array<double>(q);
  Doubles out(distances.size()), totals(q, 1.0);  // padding weighs 0
  for (std::size_t i = 0; i < q && k > 0; ++i)
    totals[i] = neighbour_weights(&distances[i * k], &positions[i * k], k, sigma, context.kernels,
                                  &out[i * k])
                    .total;
  context.count(context.same(out, wanted, "weights"));
  context.count(context.same(totals, wanted_totals, "sums of weights"));
}

// Owns what an AggregateRequest points to.
struct AggregateCase {
  explicit AggregateCase(Reader& reader) {
    request.q = reader.size();
    request.k = reader.size();
    request.columns = reader.size();
    request.sigma = reader.value<double>();
    request.strength = reader.value<double>();
    const std::size_t kind = reader.size();
    require(kind <= 2, "unknown store");
    if (kind == 2) read_head(reader);
    const std::size_t segments = reader.size();
    stored.reserve(segments);  // their arrays stay where they are
    if (kind == 0)
      read_segments<DenseSegment>(reader, segments);
    else if (kind == 1)
      read_segments<SparseSegment>(reader, segments);
    else
      read_segments<HeadSegment>(reader, segments);
    distances = reader.array<double>(times(request.q, request.k));
    positions = reader.array<std::int64_t>(distances.size());
    for (const std::int64_t position : positions)
      require(position < static_cast<std::int64_t>(total), "a position is beyond the rows");
    request.selected = reader.size();
    select = reader.array<std::int64_t>(times(request.q, request.selected));
    if (request.selected > 0) request.select = select.data();
    base = reader.array<double>();
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
  void read_segment(Reader& reader, DenseSegment& segment, Stored& data) const {
    data.numbers = reader.numbers(times(segment.n, request.columns));
    segment.residuals = data.numbers.numbers();
  }
  void read_segment(Reader& reader, SparseSegment& segment, Stored& data) const {
    segment.width = reader.size();
    data.index = reader.array<std::int32_t>(times(segment.n, segment.width));
    data.numbers = reader.numbers(data.index.size());
    data.rest = reader.array<float>(segment.n);
    segment.index = data.index.data();
    segment.value = data.numbers.numbers();
    segment.rest = data.rest.data();
  }
  void read_segment(Reader& reader, HeadSegment& segment, Stored& data) const {
    data.numbers = reader.numbers(times(segment.n, request.head.d));
    data.labels = reader.array<std::int64_t>(segment.n);
    segment.keys = data.numbers.numbers();
    segment.labels = data.labels.data();
  }

  AggregateRequest request;
  std::vector<Stored> stored;
  std::size_t total = 0;
  Floats weight, bias;
  Integers positions, select;
  Doubles distances, base, wanted;
};

void check_aggregate(Context& context, Reader& reader) {
  const AggregateCase given(reader);
  AggregateRequest request = given.request;
  check_output(context, given.wanted, [&](std::size_t threads, Doubles& out, Interrupt& stop) {
    if (request.add_to_out) out = given.base;
    request.threads = threads;
    aggregate(request, context.kernels, out.data(), stop);
  });
}

// Owns what a SweepRequest points to.
struct SweepCase {
  explicit SweepCase(Reader& reader) {
    request.q = reader.size();
    request.k = reader.size();
    request.rows = reader.size();
    request.columns = reader.size();
    residuals = reader.array<float>(times(request.rows, request.columns));
    distances = reader.array<double>(times(request.q, request.k));
    positions = reader.array<std::int64_t>(distances.size());
    base = reader.array<double>();  // empty: not known
    labels = reader.array<std::int64_t>();
    values = reader.array<double>();
    request.residuals = residuals.data();
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
      request.maps.push_back(map_of(kinds[i], floors[i]));
    for (const std::int64_t bound : reader.array<std::int64_t>())
      request.bounds.push_back(static_cast<std::size_t>(bound));
    request.bins = reader.size();
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
    for (const std::int64_t label : labels)
      require(static_cast<std::uint64_t>(label) < request.columns, "a label is no class");
    const std::size_t outputs = times(request.q, request.columns);
    require(base.empty() || base.size() == outputs, "the base outputs have another shape");
    require(labels.empty() ? values.size() == outputs && values.size() == base.size()
                           : labels.size() == request.q,
            "the targets have another shape");
  }

  SweepRequest request;
  Floats residuals;
  Doubles distances, base, values;
  Integers positions, labels;
};

// The page leaves the order of these sums open, but not their bits: what the scalar table makes of
// them on one thread is wanted of every other.
void check_sweep(Context& context, Reader& reader) {
  const SweepCase given(reader);
  SweepRequest request = given.request;
  std::vector<SweepScore> scores{SweepScore::squared_error, SweepScore::absolute_error};
  if (request.labels != nullptr)
    scores = {SweepScore::log_loss, SweepScore::accuracy, SweepScore::brier,
              SweepScore::calibration};
  for (const SweepScore score : scores) {
    request.score = score;
    Doubles wanted(request.folds() * request.settings() * request.width());
    Interrupt never;
    sweep(request, scalar_kernels(), wanted.data(), never);
    check_output(context, wanted, [&](std::size_t threads, Doubles& out, Interrupt& stop) {
      request.threads = threads;
      sweep(request, context.kernels, out.data(), stop);
    });
  }
}

void check_table(Context& context, const std::vector<char>& file) {
  using Check = void (*)(Context&, Reader&);
  static constexpr Check checks[] = {
      check_search,  check_exp,       check_softmax,    check_residuals, check_simplex,
      check_weights, check_aggregate, check_sparse,     check_logits,    check_numbers,
      check_log,     check_sweep,     check_wide_search};
  Reader reader(file);
  for (const char c : std::string("RESMEM04")) require(reader.value<char>() == c, "no such kind");
  const std::size_t records = reader.size();
  for (context.number = 0; context.number < records; ++context.number) {
    const std::size_t kind = reader.size();
    context.name = reader.text();
    context.path = "all";
    require(kind >= 1 && kind <= std::size(checks), "unknown kind of record");
    checks[kind - 1](context, reader);
  }
  require(reader.at_end(), "something follows the last record");
}

int check_file(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(std::string("cannot read ") + path);
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
  std::vector<std::string> missing{"scalar",     "avx2", "avx512",
                                   "avx512vnni", "neon", "neon_dotprod"};
  std::size_t passed = 0, failed = 0;
  for (const KernelTable* table : available_kernels()) {
    Context context(*table);
    check_table(context, file);
    const LaneResults lanes = check_canonical_lanes(*table);
    context.passed += lanes.passed;
    context.failed += lanes.failed;
    if (lanes.failed > 0) std::printf("FAILED %s: %s\n", table->name, lanes.first.c_str());
    std::printf("%s (%s): %zu checks, %zu failed\n", table->name,
                table->emulated ? "emulated" : "native", context.passed + context.failed,
                context.failed);
    for (const IndexBuild& way : kIndexBuilds)
      require(context.searches[way.kind] > 0,
              (std::string("no case was searched through a ") + way.kind).c_str());
    for (const auto& [strategy, count] : context.searches)
      std::printf("  %s: %zu searches\n", strategy.c_str(), count);
    passed += context.passed;
    failed += context.failed;
    missing.erase(std::remove(missing.begin(), missing.end(), table->name), missing.end());
  }
  for (const std::string& name : missing) std::printf("%s: not available here\n", name.c_str());
  std::printf("%zu passed, %zu failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace
}  // namespace resmem

int main(int argc, char** argv) {
  try {
    if (argc != 2) throw std::runtime_error("usage: contract_check FILE");
    return resmem::check_file(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
