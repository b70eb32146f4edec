#include "search_case.h"

#include <exception>

#include "../base/cpu.h"
#include "../engine/search.h"

namespace resmem {

Floats read(const StoredVector& stored) {
  Floats scratch(stored.size());
  const float* values =
      stored.numbers().read(0, scratch.size(), scratch.data(), *available_kernels()[0]);
  return {values, values + scratch.size()};
}

SearchCase::SearchCase(Reader& reader) {
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
  for (std::size_t s = 0; s < segments; ++s) read_segment(reader);
  request.version = reader.value<std::int64_t>();
  request.exclude.width = reader.size();
  exclude = reader.array<std::int64_t>(times(request.q, request.exclude.width));
  request.exclude.numbers = exclude.empty() ? nullptr : exclude.data();
  values = reader.array<double>(times(request.q, request.k));
  ids = reader.array<std::int64_t>(values.size());
}

void SearchCase::read_segment(Reader& reader) {
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

std::int64_t SearchCase::id_at(std::int64_t position) const {
  if (position < 0) return -1;
  auto row = static_cast<std::size_t>(position);
  for (const Segment& segment : request.segments) {
    if (row < segment.n) return segment.id(row);
    row -= segment.n;
  }
  return -2;  // beyond all rows
}

bool search_once(Context& context, const SearchCase& search_case, const SearchRequest& request,
                 std::size_t threads, const char* strategy) {
  Doubles values(search_case.values.size(), kBlank);
  Integers ids(values.size(), kBlank), positions = ids;
  Interrupt never;
  SearchStats stats;
  try {
    stats = search(request, {context.kernels, threads, never},
                   {values.data(), ids.data(), positions.data()});
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
  return (stats.isa == context.kernels.name &&
          (strategy == nullptr || stats.strategy == strategy)) ||
         context.fail("ran " + stats.strategy + " on " + stats.isa);
}

}  // namespace resmem
