// The core against cases of the oracle, without Python:
//
//   python tests/core_cases.py cases.bin && contract_check cases.bin
//
// Every case runs on every kernel table of this machine, on every path there is to it, and must
// give the oracle's bits. tests/core_cases.py documents the file.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/aggregate.h"
#include "../core/cpu.h"
#include "../core/search.h"

namespace resmem {
namespace {

constexpr std::size_t kThreads[] = {1, 2, 7};
constexpr Blocks kSmallBlocks[] = {{1, 1, 4, 1}, {5, 12, 8, 9}, {17, 24, 16, 40}, {16, 48, 0, 2}};
constexpr std::size_t kHeavyCase = 500000;  // multiplications above which fewer settings are tried
constexpr int kFailuresShown = 20;          // per table

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Integers = std::vector<std::int64_t>;

// ---- The file -----------------------------------------------------------------------------

void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(std::string("malformed file: ") + message);
}

std::size_t times(std::size_t a, std::size_t b) {
  require(b == 0 || a <= std::numeric_limits<std::size_t>::max() / b, "a shape overflows");
  return a * b;
}

class Reader {
 public:
  explicit Reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}

  bool at_end() const { return at_ == bytes_.size(); }

  template <class T>
  T value() {
    T result;
    copy(&result, 1);
    return result;
  }
  std::size_t size() { return static_cast<std::size_t>(value<std::uint64_t>()); }

  // Copied, so that the memory checkers see a read past the end.
  template <class T>
  std::vector<T> array() {
    const std::size_t count = size();
    require(count <= (bytes_.size() - at_) / sizeof(T), "an array is cut off");
    std::vector<T> result(count);
    if (count > 0) copy(result.data(), count);
    return result;
  }
  template <class T>
  std::vector<T> array(std::size_t count) {
    std::vector<T> result = array<T>();
    require(result.size() == count, "an array has not the size of its shape");
    return result;
  }
  Floats finite_array(std::size_t count) {
    Floats result = array<float>(count);
    for (const float x : result) require(std::isfinite(x), "a vector is not finite");
    return result;
  }
  std::string text() {
    const std::vector<char> characters = array<char>();
    return {characters.begin(), characters.end()};
  }

 private:
  template <class T>
  void copy(T* target, std::size_t count) {
    require(count * sizeof(T) <= bytes_.size() - at_, "it is cut off");
    std::memcpy(target, bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
  }

  std::vector<char> bytes_;
  std::size_t at_ = 0;
};

// ---- Results ------------------------------------------------------------------------------

struct Tally {
  std::size_t passed = 0, failed = 0;
};

// What runs now, for messages and counts.
class Context {
 public:
  explicit Context(const KernelTable& table) : kernels(table) {}

  // Neither padding nor a result of any case.
  template <class T>
  static std::vector<T> blank(std::size_t count) {
    return std::vector<T>(count, static_cast<T>(-77));
  }

  template <class T>
  bool same(const std::vector<T>& got, const std::vector<T>& wanted, const char* what) {
    if (got.empty() || std::memcmp(got.data(), wanted.data(), got.size() * sizeof(T)) == 0)
      return true;
    std::size_t at = 0;
    while (std::memcmp(&got[at], &wanted[at], sizeof(T)) == 0) ++at;
    return fail(std::string(what) + "[" + std::to_string(at) + "] is " + text(got[at]) +
                ", wanted " + text(wanted[at]));
  }

  bool fail(const std::string& message) {
    if (++failures_ <= kFailuresShown)
      std::printf("FAILED %s, %s, %s: %s\n", kernels.name, name.c_str(), path.c_str(),
                  message.c_str());
    return false;
  }
  void count(bool passed) { ++(passed ? tally.passed : tally.failed); }

  const KernelTable& kernels;
  std::string name, path;
  Tally tally;

 private:
  static std::string text(double x) {
    char characters[40];
    std::snprintf(characters, sizeof characters, "%a", x);
    return characters;
  }
  static std::string text(std::int64_t x) { return std::to_string(x); }

  int failures_ = 0;
};

template <class T, class Body>
void check_output(Context& context, const std::vector<T>& wanted, Body&& body) {
  for (const std::size_t threads : kThreads) {
    context.path = std::to_string(threads) + " threads";
    std::vector<T> out = Context::blank<T>(wanted.size());
    Interrupt interrupt;
    body(threads, out, interrupt);
    context.count(context.same(out, wanted, "output"));
  }
}

// ---- Search -------------------------------------------------------------------------------

struct Path {
  Strategy strategy;
  FilterKind filter;
  bool euclidean_only;
  const char* name;
};

constexpr Path kPaths[] = {
    {Strategy::automatic, FilterKind::automatic, false, "automatic"},
    {Strategy::exact, FilterKind::automatic, false, "exact"},
    {Strategy::by_queries, FilterKind::dot, false, "by_queries"},
    {Strategy::by_rows, FilterKind::dot, false, "by_rows"},
    {Strategy::by_queries, FilterKind::difference, true, "by_queries"},
    {Strategy::by_rows, FilterKind::difference, true, "by_rows"},
    {Strategy::stream, FilterKind::automatic, true, "stream"},
};
constexpr std::size_t kCertifiedDepth = std::size_t{1} << 19;  // deeper, the exact path answers

float max_abs(const Floats& values) {
  float largest = 0;
  for (const float x : values) largest = std::max(largest, std::fabs(x));
  return largest;
}

struct StoredSegment {
  Floats rows;
  Integers ids;
  std::vector<std::uint8_t> alive;
};

// Owns what a request points to.
struct SearchCase {
  explicit SearchCase(Reader& reader) {
    static constexpr Metric metrics[] = {Metric::euclidean, Metric::sqeuclidean, Metric::cosine,
                                         Metric::inner_product};
    const std::size_t metric = reader.size();
    require(metric < std::size(metrics), "unknown metric");
    request.metric = metrics[metric];
    request.q = reader.size();
    request.d = reader.size();
    request.k = reader.size();
    require(request.d > 0, "no dimension");
    queries = reader.finite_array(times(request.q, request.d));
    request.queries = queries.data();
    request.queries_max_abs = max_abs(queries);
    const std::size_t segments = reader.size();
    for (std::size_t s = 0; s < segments; ++s) {
      Segment segment;
      segment.n = reader.size();
      segment.first_id = reader.value<std::int64_t>();
      stored.push_back({reader.finite_array(times(segment.n, request.d)),
                        reader.array<std::int64_t>(), reader.array<std::uint8_t>()});
      const StoredSegment& data = stored.back();  // moved with the vector, but not its arrays
      require(data.ids.empty() || data.ids.size() == segment.n, "not an id per row");
      require(data.alive.empty() || data.alive.size() == segment.n, "not a flag per row");
      segment.rows = data.rows.data();
      segment.ids = data.ids.empty() ? nullptr : data.ids.data();
      segment.alive = data.alive.empty() ? nullptr : data.alive.data();
      segment.max_abs = max_abs(data.rows);
      request.segments.push_back(segment);
      total += segment.n;
    }
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
  std::vector<StoredSegment> stored;
  Integers exclude;
  std::size_t total = 0;
  Doubles values;
  Integers ids;
};

bool search_once(Context& context, const SearchCase& search_case, const SearchRequest& request,
                 const Path& path) {
  Doubles values = Context::blank<double>(search_case.values.size());
  Integers ids = Context::blank<std::int64_t>(values.size()), positions = ids;
  Interrupt interrupt;
  SearchStats stats;
  try {
    stats =
        search(request, context.kernels, {values.data(), ids.data(), positions.data()}, interrupt);
  } catch (const std::exception& error) {
    return context.fail(error.what());
  }
  for (std::int64_t& position : positions) position = search_case.id_at(position);
  bool passed = context.same(ids, search_case.ids, "ids");
  passed = context.same(values, search_case.values, "values") && passed;
  passed = context.same(positions, search_case.ids, "ids of positions") && passed;
  if (values.empty()) return passed;  // nothing runs
  const bool forced = path.strategy != Strategy::automatic && request.d <= kCertifiedDepth;
  if (stats.isa != context.kernels.name || (forced && stats.strategy != path.name))
    return context.fail("ran " + stats.strategy + " on " + stats.isa);
  return passed;
}

void check_search(Context& context, Reader& reader, std::size_t number) {
  const SearchCase search_case(reader);
  SearchRequest request = search_case.request;
  const bool euclidean =
      request.metric == Metric::euclidean || request.metric == Metric::sqeuclidean;
  const bool heavy = request.q * search_case.total * request.d > kHeavyCase;
  for (const Path& path : kPaths) {
    if (path.euclidean_only && !euclidean) continue;
    request.strategy = path.strategy;
    request.filter = path.filter;
    // Threads and blocks all with all; of a heavy case a half, in turn.
    for (std::size_t setting = 0; setting < 2 * std::size(kThreads); ++setting) {
      if (heavy && setting % 2 != number % 2) continue;
      request.threads = kThreads[setting % std::size(kThreads)];
      const bool small = setting >= std::size(kThreads);
      request.blocks = small ? kSmallBlocks[number % std::size(kSmallBlocks)] : Blocks{};
      context.path = std::string(path.name) +
                     (path.filter == FilterKind::difference ? " difference, " : ", ") +
                     std::to_string(request.threads) + (small ? " threads, small" : " threads");
      context.count(search_once(context, search_case, request, path));
    }
  }
  context.path = "max_abs";
  for (std::size_t s = 0; s < search_case.stored.size(); ++s) {
    const Floats& rows = search_case.stored[s].rows;
    const Doubles got{context.kernels.max_abs(rows.data(), rows.size())};
    context.count(context.same(got, {request.segments[s].max_abs}, "max_abs"));
  }
}

// ---- Numbers ------------------------------------------------------------------------------

void check_exp(Context& context, Reader& reader) {
  const Doubles x = reader.array<double>(), wanted = reader.array<double>(x.size());
  Doubles out = x;
  context.path = "exp";
  context.kernels.exp(out.data(), out.size());
  context.count(context.same(out, wanted, "output"));
}

void check_softmax(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const auto temperature = reader.value<double>();
  const Floats logits = reader.array<float>(times(n, columns));
  const Doubles wanted = reader.array<double>(logits.size());
  check_output(context, wanted, [&](std::size_t threads, Doubles& out, Interrupt& interrupt) {
    softmax_rows(logits.data(), n, columns, temperature, context.kernels, threads, out.data(),
                 interrupt);
  });
}

void check_residuals(Context& context, Reader& reader) {
  ClassRows rows;
  rows.n = reader.size();
  rows.columns = reader.size();
  rows.temperature = reader.value<double>();
  const Floats outputs = reader.array<float>(times(rows.n, rows.columns));
  const Integers labels = reader.array<std::int64_t>(rows.n);
  const Floats wanted = reader.array<float>(outputs.size());
  rows.outputs = outputs.data();
  rows.labels = labels.data();
  check_output(context, wanted, [&](std::size_t threads, Floats& out, Interrupt& interrupt) {
    class_residuals(rows, context.kernels, threads, out.data(), interrupt);
  });
}

void check_simplex(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const auto floor = reader.value<double>();
  const Doubles values = reader.array<double>(times(n, columns));
  const Doubles wanted = reader.array<double>(values.size());
  check_output(context, wanted, [&](std::size_t threads, Doubles& out, Interrupt& interrupt) {
    out = values;
    simplex_rows(out.data(), n, columns, floor, context.kernels, threads, interrupt);
  });
}

void check_weights(Context& context, Reader& reader) {
  const std::size_t q = reader.size(), k = reader.size();
  const auto sigma = reader.value<double>();
  const Doubles distances = reader.array<double>(times(q, k));
  const Integers positions = reader.array<std::int64_t>(distances.size());
  const Doubles wanted = reader.array<double>(distances.size());
  Doubles out(distances.size());  // padding weighs 0
  for (std::size_t i = 0; i < q; ++i)
    neighbour_weights(distances.data() + i * k, positions.data() + i * k, k, sigma, context.kernels,
                      out.data() + i * k);
  context.path = "weights";
  context.count(context.same(out, wanted, "output"));
}

void check_aggregate(Context& context, Reader& reader) {
  AggregateRequest request;
  request.q = reader.size();
  request.k = reader.size();
  request.columns = reader.size();
  request.sigma = reader.value<double>();
  request.strength = reader.value<double>();
  const std::size_t segments = reader.size();
  std::vector<Floats> residuals;
  std::size_t total = 0;
  for (std::size_t s = 0; s < segments; ++s) {
    const std::size_t n = reader.size();
    residuals.push_back(reader.array<float>(times(n, request.columns)));
    request.segments.push_back({residuals.back().data(), n});
    total += n;
  }
  const Doubles distances = reader.array<double>(times(request.q, request.k));
  const Integers positions = reader.array<std::int64_t>(distances.size());
  for (const std::int64_t position : positions)
    require(position < static_cast<std::int64_t>(total), "a position is beyond the rows");
  const Doubles base = reader.array<double>();
  const Doubles wanted = reader.array<double>(times(request.q, request.columns));
  require(base.empty() || base.size() == wanted.size(), "the base outputs have another shape");
  request.distances = distances.data();
  request.positions = positions.data();
  request.add_to_out = !base.empty();
  check_output(context, wanted, [&](std::size_t threads, Doubles& out, Interrupt& interrupt) {
    if (request.add_to_out) out = base;
    request.threads = threads;
    aggregate(request, context.kernels, out.data(), interrupt);
  });
}

// ---- All of it ----------------------------------------------------------------------------

Tally check_table(const KernelTable& kernels, const std::vector<char>& file) {
  static constexpr char magic[] = "RESMEM01";
  Context context(kernels);
  Reader reader(file);
  for (std::size_t i = 0; i < 8; ++i) require(reader.value<char>() == magic[i], "not of this kind");
  const std::size_t records = reader.size();
  for (std::size_t number = 0; number < records; ++number) {
    const std::size_t kind = reader.size();
    context.name = reader.text();
    switch (kind) {
      case 1:
        check_search(context, reader, number);
        break;
      case 2:
        check_exp(context, reader);
        break;
      case 3:
        check_softmax(context, reader);
        break;
      case 4:
        check_residuals(context, reader);
        break;
      case 5:
        check_simplex(context, reader);
        break;
      case 6:
        check_weights(context, reader);
        break;
      case 7:
        check_aggregate(context, reader);
        break;
      default:
        require(false, "unknown kind of record");
    }
  }
  require(reader.at_end(), "something follows the last record");
  return context.tally;
}

int check_file(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(std::string("cannot read ") + path);
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
  std::vector<std::string> missing{"scalar", "avx2", "avx512", "neon"};
  Tally all;
  for (const KernelTable* table : available_kernels()) {
    const Tally tally = check_table(*table, file);
    std::printf("%s (%s): %zu checks, %zu failed\n", table->name,
                table->emulated ? "emulated" : "native", tally.passed + tally.failed, tally.failed);
    std::fflush(stdout);
    all.passed += tally.passed;
    all.failed += tally.failed;
    missing.erase(std::remove(missing.begin(), missing.end(), table->name), missing.end());
  }
  for (const std::string& name : missing) std::printf("%s: not available here\n", name.c_str());
  std::printf("%zu passed, %zu failed\n", all.passed, all.failed);
  return all.failed == 0 && all.passed > 0 ? 0 : 1;
}

}  // namespace
}  // namespace resmem

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: contract_check FILE\n");
    return 2;
  }
  try {
    return resmem::check_file(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "contract_check: %s\n", error.what());
    return 2;
  }
}
