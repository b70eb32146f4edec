#include "search.h"

#include <algorithm>

#include "../flat/visibility.h"
#include "../index/row_index.h"
#include "among.h"

namespace resmem {
namespace {

// Returns how many rows at the beginning of a segment its index covers.
std::size_t covered_rows(const Segment& segment) {
  return segment.index != nullptr ? segment.index->covers() : 0;
}

// Owns the float32 queries of a request that these numbers give, and what they may see.
struct SomeQueries {
  SomeQueries(const SearchRequest& all, const std::vector<std::size_t>& numbers) : request(all) {
    request.q = numbers.size();
    request.queries = taken(all.queries, all.d, numbers, queries);
    const auto listed = [&](NumberLists& lists, std::vector<std::int64_t>& copy) {
      if (lists.numbers != nullptr)
        lists.numbers = taken(lists.numbers, lists.width, numbers, copy);
    };
    listed(request.exclude, ids);
    listed(request.exclude_groups, groups);
    if (all.before != nullptr) request.before = taken(all.before, 1, numbers, before);
  }
  SomeQueries(const SomeQueries&) = delete;
  SomeQueries& operator=(const SomeQueries&) = delete;

  SearchRequest request;

 private:
  template <class T>
  static const T* taken(const T* from, std::size_t width, const std::vector<std::size_t>& numbers,
                        std::vector<T>& copy) {
    for (const std::size_t i : numbers)
      copy.insert(copy.end(), from + i * width, from + (i + 1) * width);
    return copy.data();
  }

  std::vector<float> queries;
  std::vector<std::int64_t> ids, groups, before;
};

// Searches segments with indexes. The rows that indexes cover are searched through them and all
// others by the flat search, and the nearest of both are kept. Queries that an index gave up are
// searched by the flat search alone.
class IndexedSearch {
 public:
  IndexedSearch(const SearchRequest& request, const Execution& execution,
                const SearchOutput& output)
      : request_(request),
        execution_(execution),
        output_(output),
        rows_(request.segments, request.d),
        visibility_(request),
        deferred_(request.q) {}

  SearchStats run() {
    stats_.isa = execution_.kernels.name;
    const IndexKind* named = nullptr;
    std::size_t together = std::min(request_.q, queries_held(request_, execution_.threads));
    for (const Segment& segment : request_.segments) {
      if (segment.index == nullptr) continue;
      const IndexKind& kind = segment.index->kind();
      if (named == nullptr || kind.precedence > named->precedence) named = &kind;
      together = std::min(together, segment.index->queries_together(request_));
    }
    stats_.strategy = named->name;
    stats_.filter = named->filter;
    for (std::size_t first = 0; first < request_.q; first += together)
      search_part(first, std::min(together, request_.q - first));
    search_deferred();
    return stats_;
  }

 private:
  void search_part(std::size_t first, std::size_t count) {
    std::vector<std::vector<Neighbour>> found(count);
    search_uncovered(first, count, found);
    for (std::size_t s = 0; s < request_.segments.size(); ++s) {
      const Segment& segment = request_.segments[s];
      if (segment.index == nullptr) continue;
      segment.index->search(
          {request_, segment, rows_.start(s), execution_, visibility_, first, count},
          {found, deferred_, stats_});
    }
    parallel_for_rows(count, 64 * request_.k, execution_.threads, execution_.interrupt,
                      [&](std::size_t begin, std::size_t end, bool) {
                        for (std::size_t i = begin; i < end; ++i)
                          output_.write(request_, first + i, found[i]);
                      });
  }

  // Searches the rows behind those that indexes cover. What is found gets the positions that it has
  // among all rows.
  void search_uncovered(std::size_t first, std::size_t count,
                        std::vector<std::vector<Neighbour>>& found) {
    SearchRequest part = request_.part(first, count);
    part.segments.clear();
    std::vector<std::size_t> starts;
    for (std::size_t s = 0; s < request_.segments.size(); ++s) {
      const Segment& segment = request_.segments[s];
      const std::size_t covered = covered_rows(segment);
      if (covered >= segment.n) continue;
      part.segments.push_back(segment.after(covered, request_.d));
      starts.push_back(rows_.start(s) + covered);
    }
    if (part.segments.empty()) return;
    SearchOutput output;
    output.found = &found;
    stats_.add(flat_search(part, execution_, output));
    const RowSet numbered(part.segments, request_.d);
    for (std::vector<Neighbour>& each : found)
      for (Neighbour& neighbour : each) {
        const std::size_t s = numbered.segment_of(neighbour.position);
        neighbour.position += starts[s] - numbered.start(s);
      }
  }

  void search_deferred() {
    std::vector<std::size_t> queries;
    for (std::size_t i = 0; i < request_.q; ++i)
      if (deferred_[i] != 0) queries.push_back(i);
    stats_.given_up = queries.size();
    if (queries.empty()) return;
    const SomeQueries some(request_, queries);
    std::vector<std::vector<Neighbour>> found(queries.size());
    SearchOutput output;
    output.found = &found;
    stats_.add(flat_search(some.request, execution_, output));
    for (std::size_t i = 0; i < queries.size(); ++i) output_.write(request_, queries[i], found[i]);
  }

  const SearchRequest& request_;
  const Execution& execution_;
  const SearchOutput output_;
  const RowSet rows_;
  const Visibility visibility_;
  std::vector<std::uint8_t> deferred_;
  SearchStats stats_;
};

// Indexes are asked if no other path is forced, if the bounds of all of them hold, and if one
// covers many more rows than are looked for.
bool indexes_serve(const SearchRequest& request) {
  if (request.forced.strategy != Strategy::automatic ||
      request.forced.filter != FilterKind::automatic)
    return false;
  bool large = false;
  for (const Segment& segment : request.segments) {
    if (segment.index == nullptr) continue;
    if (!segment.index->serves(request)) return false;
    large = large || 8 * request.k <= covered_rows(segment);
  }
  return large;
}

}  // namespace

SearchStats search(const SearchRequest& request, const Execution& execution,
                   const SearchOutput& output) {
  if (request.q == 0 || request.k == 0) return {};
  const bool indexed = indexes_serve(request);
  if (!request.among.all() && worth_gathering(request, indexed))
    return search_gathered(request, execution, output);
  const MaskedRows visible(request);
  if (indexed) return IndexedSearch(visible.request, execution, output).run();
  return flat_search(visible.request, execution, output);
}

}  // namespace resmem
