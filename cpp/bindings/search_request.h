// Makes a SearchRequest of Python objects, which the caller's arguments keep alive.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "../flat/request.h"
#include "../index/row_index.h"
#include "row_segment.h"

namespace resmem {

inline Metric metric_named(const std::string& name) {
  return choice<Metric>(name, {{"euclidean", Metric::euclidean},
                               {"sqeuclidean", Metric::sqeuclidean},
                               {"cosine", Metric::cosine},
                               {"inner_product", Metric::inner_product}});
}

inline FilterKind filter_named(const std::string& name) {
  return choice<FilterKind>(name, {{"automatic", FilterKind::automatic},
                                   {"dot", FilterKind::dot},
                                   {"difference", FilterKind::difference}});
}

// Queries must be C-contiguous float32, or float64 where the keys of all segments are.
inline SearchRequest request_from(const py::array& queries, double queries_max_abs,
                                  const py::sequence& segments, std::size_t k,
                                  const std::string& metric) {
  require(queries.ndim() == 2 && extent(queries, 1) > 0, "queries must be (q, d), d >= 1");
  const Numbers numbers = stored_numbers(queries, "queries", extent(queries, 1), true);
  const bool wide = numbers.type == NumberType::float64;
  require(wide || numbers.type == NumberType::float32, "queries must be float32 or float64");
  SearchRequest request;
  if (wide)
    request.queries64 = numbers.wide(0);
  else
    request.queries = static_cast<const float*>(numbers.data);
  request.q = extent(queries, 0);
  request.d = extent(queries, 1);
  request.queries_max_abs = queries_max_abs;
  request.k = k;
  request.metric = metric_named(metric);
  for (const py::handle& segment : segments) {
    const BoundSegment& bound = bound_segment(segment);
    require(bound.d == request.d, "segments must be as wide as the queries");
    request.segments.push_back(bound.segment);
  }
  for (const Segment& segment : request.segments) {
    require((segment.keys.type == NumberType::float64) == wide,
            "queries must be float64 for float64 keys, and for no other");
    require(!wide || segment.index == nullptr, "float64 keys have no index");
  }
  return request;
}

using OptionalIntegers = std::optional<Array<std::int64_t>>;

// The number of bits that are set in every byte.
inline constexpr std::array<std::uint8_t, 256> bit_counts() {
  std::array<std::uint8_t, 256> counts{};
  for (std::size_t byte = 1; byte < counts.size(); ++byte)
    counts[byte] = static_cast<std::uint8_t>(counts[byte / 2] + byte % 2);
  return counts;
}
inline constexpr std::array<std::uint8_t, 256> kBitCounts = bit_counts();

inline AmongRows among_positions(const Array<std::int64_t>& array, std::size_t rows) {
  require(array.ndim() == 1, "among must be (m,)");
  const std::int64_t* first = array.data();
  const std::size_t m = extent(array, 0);
  for (std::size_t i = 0; i < m; ++i)
    require(first[i] >= 0 && static_cast<std::size_t>(first[i]) < rows &&
                (i == 0 || first[i - 1] < first[i]),
            "among must be positions of rows, ascending");
  static constexpr std::int64_t kNone = 0;
  AmongRows taken;
  taken.positions = m > 0 ? first : &kNone;  // an empty array may have no address
  taken.count = m;
  return taken;
}

inline AmongRows among_bits(const Array<std::uint8_t>& array, std::size_t rows) {
  require(array.ndim() == 1 && extent(array, 0) == (rows + 7) / 8, "among must have all rows");
  static constexpr std::uint8_t kNone = 0;
  AmongRows taken;
  taken.bits = rows > 0 ? array.data() : &kNone;
  for (std::size_t i = 0; i < extent(array, 0); ++i) taken.count += kBitCounts[taken.bits[i]];
  require(rows % 8 == 0 || taken.bits[rows / 8] >> rows % 8 == 0, "among has more than the rows");
  return taken;
}

// Takes the only ones of all rows that queries see: their positions (m,) as int64, or a bit of each
// row in bytes, the lowest first. The caller's array holds them; None is all rows.
inline AmongRows among_from(const py::object& among, std::size_t rows) {
  if (among.is_none()) return {};
  if (py::isinstance<Array<std::uint8_t>>(among))
    return among_bits(exact_array<std::uint8_t>(among, "bits"), rows);
  return among_positions(exact_array<std::int64_t>(among, "int64 or uint8 among"), rows);
}

// Says which rows queries may see: none that were removed by this version, excluded or not earlier
// than `before` (q,). Lists are (q, m), -1 for none; `among` is as among_from() takes it.
struct VisibleRows {
  std::int64_t version;
  const OptionalIntegers &exclude, &exclude_groups, &before;
  const py::object& among;

  void apply_to(SearchRequest& request) const {
    request.version = version;
    request.exclude = lists(exclude, request.q);
    request.exclude_groups = lists(exclude_groups, request.q);
    for (const Segment& segment : request.segments)
      require(!before || segment.times != nullptr, "before needs rows with times");
    if (before) {
      require(before->ndim() == 1 && extent(*before, 0) == request.q, "before must be (q,)");
      request.before = before->data();
    }
    std::size_t rows = 0;
    for (const Segment& segment : request.segments) rows += segment.n;
    request.among = among_from(among, rows);
  }

 private:
  static NumberLists lists(const OptionalIntegers& given, std::size_t queries) {
    if (!given) return {};
    require(given->ndim() == 2 && extent(*given, 0) == queries,
            "exclude and exclude_groups must be (q, m)");
    return {given->data(), extent(*given, 1)};
  }
};

}  // namespace resmem
