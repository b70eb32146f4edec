#include "among.h"

#include <algorithm>
#include <cstring>

#include "../rows/row_set.h"

namespace resmem {
namespace {

constexpr std::size_t kCopyBytes = std::size_t{8} << 20;  // keys that are copied at a time
constexpr std::size_t kFewQueries = 8;  // so few read all rows once, about as fast as memory gives

// Holds copies of rows, which follow each other in a segment of their own.
class GatheredRows {
 public:
  explicit GatheredRows(const SearchRequest& request)
      : request_(request), rows_(request.segments, request.d) {}

  // Takes living rows from the given positions on, at most as many as fit, of one type of keys.
  // Returns how many positions these were.
  std::size_t take(const std::int64_t* first, const std::int64_t* last,
                   const Execution& execution) {
    const std::size_t s = rows_.segment_of(static_cast<std::size_t>(*first));
    type_ = request_.segments[s].keys.type;
    const std::size_t bytes = Numbers{nullptr, type_}.bytes(request_.d);
    const auto most = static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, kCopyBytes / bytes));
    positions_.clear();
    max_abs_ = 0;
    const std::int64_t* next = first;
    for (; next < last && next - first < most; ++next) {
      const auto position = static_cast<std::size_t>(*next);
      const Segment& segment = segment_at(position);
      if (segment.keys.type != type_) break;
      max_abs_ = std::max(max_abs_, segment.max_abs);
      if (!segment.dead(row_at(position), request_.version)) positions_.push_back(position);
    }
    copy(bytes, execution);
    return static_cast<std::size_t>(next - first);
  }

  // Returns the rows taken, whose numbers are those of position().
  Segment segment() const {
    Segment copied;
    copied.keys = {keys_.data(), type_};
    copied.n = positions_.size();
    copied.ids = ids_.data();
    copied.max_abs = max_abs_;
    if (request_.before != nullptr) copied.times = times_.data();
    if (request_.exclude_groups.numbers != nullptr) copied.groups = groups_.data();
    return copied;
  }
  std::size_t position(std::size_t row) const { return positions_[row]; }

 private:
  const Segment& segment_at(std::size_t position) const {
    return request_.segments[rows_.segment_of(position)];
  }
  std::size_t row_at(std::size_t position) const {
    return position - rows_.start(rows_.segment_of(position));
  }

  void copy(std::size_t bytes, const Execution& execution) {
    const std::size_t n = positions_.size();
    keys_.resize(n * bytes);
    ids_.resize(n);
    times_.resize(n);
    groups_.resize(n);
    parallel_for_rows(n, bytes, execution.threads, execution.interrupt,
                      [&](std::size_t first, std::size_t last, bool) {
                        for (std::size_t i = first; i < last; ++i) {
                          const Segment& from = segment_at(positions_[i]);
                          const std::size_t row = row_at(positions_[i]);
                          std::memcpy(&keys_[i * bytes], from.keys.at(row * request_.d), bytes);
                          ids_[i] = from.id(row);
                          if (request_.before != nullptr) times_[i] = from.times[row];
                          if (request_.exclude_groups.numbers != nullptr)
                            groups_[i] = from.group(row);
                        }
                      });
  }

  const SearchRequest& request_;
  const RowSet rows_;
  NumberType type_ = NumberType::float32;
  double max_abs_ = 0;
  std::vector<std::size_t> positions_;
  std::vector<char> keys_;
  std::vector<std::int64_t> ids_, times_, groups_;
};

}  // namespace

// A copy costs about as much as reading its rows three times. A few queries without an index read
// all rows once, and an index passes over most of them.
bool worth_gathering(const SearchRequest& request, bool indexed) {
  std::size_t rows = 0;
  for (const Segment& segment : request.segments) rows += segment.n;
  const std::size_t some = request.among.count;
  if (indexed) return some <= rows / 16;
  return request.q <= kFewQueries ? some <= rows / 4 : some <= rows / 4 * 3;
}

SearchStats search_gathered(const SearchRequest& request, const Execution& execution,
                            const SearchOutput& output) {
  SearchStats stats;
  GatheredRows gathered(request);
  const std::vector<std::int64_t> listed = positions_of(request.among);
  const std::int64_t* const begin = listed.empty() ? request.among.positions : listed.data();
  const std::int64_t* const end = begin + request.among.count;
  const std::size_t together = std::min(request.q, queries_held(request, execution.threads));
  for (std::size_t first = 0; first < request.q; first += together) {
    SearchRequest part = request.part(first, std::min(together, request.q - first));
    part.among = AmongRows();
    std::vector<std::vector<Neighbour>> found(part.q), fresh(part.q);
    SearchOutput into;
    into.found = &fresh;
    for (const std::int64_t* next = begin; next < end;) {
      next += gathered.take(next, end, execution);
      part.segments = {gathered.segment()};
      stats.rows_gathered += part.segments[0].n;
      const SearchStats done = flat_search(part, execution, into);
      stats.add(done);
      stats.strategy = done.strategy;
      stats.filter = done.filter;
      for (std::size_t i = 0; i < part.q; ++i) {
        for (Neighbour& neighbour : fresh[i])
          neighbour.position = gathered.position(neighbour.position);
        found[i].insert(found[i].end(), fresh[i].begin(), fresh[i].end());
        keep_nearest(found[i], request.k);
        fresh[i].clear();
      }
    }
    for (std::size_t i = 0; i < part.q; ++i) output.write(request, first + i, found[i]);
  }
  stats.isa = execution.kernels.name;
  return stats;
}

MaskedRows::MaskedRows(const SearchRequest& all) : request(all) {
  if (all.among.all()) return;
  request.among = AmongRows();
  std::size_t rows = 0;
  for (Segment& segment : request.segments) {
    segment.among.first = rows;
    rows += segment.n;
  }
  bits = bits_of(all.among, rows);
  const std::uint8_t* const of_rows = all.among.bits != nullptr ? all.among.bits : bits.data();
  for (Segment& segment : request.segments) segment.among.bits = of_rows;
}

}  // namespace resmem
