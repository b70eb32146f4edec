// Checks searches of float32 and of float64 rows, on every path there is to each.
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "../engine/search.h"
#include "check_indexes.h"
#include "checks.h"
#include "search_case.h"

namespace resmem {
namespace {

constexpr Blocks kSmallBlocks[] = {{1, 1, 4, 1}, {5, 12, 8, 9}, {17, 24, 16, 40}, {16, 48, 0, 2}};
constexpr std::size_t kHeavyCase = 500000;  // multiplications above which fewer settings are tried
constexpr std::size_t kCertifiedDepth = std::size_t{1} << 19;  // deeper, the exact path answers

// A request can ask for one of these paths. `name` is the strategy that then runs.
struct Path {
  Strategy strategy;
  FilterKind filter;
  bool euclidean_only;
  const char* name;

  ForcedPlan plan() const { return {strategy, filter, {}}; }
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

// Tries every number of threads with blocks of every size. A heavy case tries every other setting.
void check_path(Context& context, const SearchCase& search_case, const Path& path, bool heavy) {
  SearchRequest request = search_case.request;
  request.forced = path.plan();
  const bool forced = path.strategy != Strategy::automatic && request.d <= kCertifiedDepth;
  for (std::size_t setting = 0; setting < 2 * std::size(kThreads); ++setting) {
    if (heavy && setting % 2 != context.number % 2) continue;
    const std::size_t threads = kThreads[setting % std::size(kThreads)];
    const bool small = setting >= std::size(kThreads);
    request.forced.blocks =
        small ? kSmallBlocks[context.number % std::size(kSmallBlocks)] : Blocks{};
    context.path = std::string(path.name) +
                   (path.filter == FilterKind::difference ? " difference, " : ", ") +
                   std::to_string(threads) + (small ? " threads, small" : " threads");
    context.count(
        search_once(context, search_case, request, threads, forced ? path.name : nullptr));
  }
}

// Owns the float64 queries and the one segment of float64 rows that its request points to.
struct WideSearchCase {
  explicit WideSearchCase(Reader& reader) {
    request.metric = static_cast<Metric>(reader.size());
    request.q = reader.size();
    request.d = reader.size();
    request.k = reader.size();
    queries = reader.array<double>(times(request.q, request.d));
    Segment segment;
    segment.n = reader.size();
    rows = reader.array<double>(times(segment.n, request.d));
    values = reader.array<double>(times(request.q, request.k));
    ids = reader.array<std::int64_t>(values.size());
    request.queries64 = queries.data();
    request.queries_max_abs = max_abs(queries);
    segment.keys = {rows.data(), NumberType::float64};
    segment.max_abs = max_abs(rows);
    request.segments.push_back(segment);
  }
  WideSearchCase(const WideSearchCase&) = delete;

  SearchRequest request;
  Doubles queries, rows, values;
  Integers ids;
};

bool search_wide_once(Context& context, const WideSearchCase& given, const SearchRequest& request,
                      std::size_t threads) {
  Doubles values(given.values.size(), kBlank);
  Integers ids(values.size(), kBlank);
  Interrupt never;
  search(request, {context.kernels, threads, never}, {values.data(), ids.data(), nullptr});
  return context.same(ids, given.ids, "ids") && context.same(values, given.values, "values");
}

}  // namespace

void check_search(Context& context, Reader& reader) {
  const SearchCase search_case(reader);
  const SearchRequest& request = search_case.request;
  const bool heavy = request.q * search_case.total * request.d > kHeavyCase;
  for (const Path& path : kPaths)
    if (!path.euclidean_only || is_euclidean(request.metric))
      check_path(context, search_case, path, heavy);
  if (!heavy) check_indexes(context, search_case);
  for (std::size_t s = 0; s < search_case.stored.size(); ++s) {
    const Floats rows = read(search_case.stored[s].keys);
    const Doubles got{context.kernels.filter.max_abs(rows.data(), rows.size())};
    context.count(context.same(got, {request.segments[s].max_abs}, "max_abs"));
  }
}

void check_wide_search(Context& context, Reader& reader) {
  const WideSearchCase given(reader);
  const Doubles got{context.kernels.filter.max_abs64(given.rows.data(), given.rows.size())};
  context.count(context.same(got, {given.request.segments[0].max_abs}, "max_abs64"));
  for (const Path& path : kPaths) {
    if (path.strategy == Strategy::stream) continue;
    if (path.euclidean_only && !is_euclidean(given.request.metric)) continue;
    SearchRequest request = given.request;
    request.forced = path.plan();
    for (const std::size_t threads : kThreads) {
      context.path = std::string(path.name) + ", " + std::to_string(threads) + " threads";
      context.count(search_wide_once(context, given, request, threads));
    }
  }
}

}  // namespace resmem
