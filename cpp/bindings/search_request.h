// Makes a SearchRequest of Python objects, which the caller's arguments keep alive.
#pragma once

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

// Takes the ids (q, m) of rows that queries must not see; -1 stands for none.
inline void exclude_from(SearchRequest& request,
                         const std::optional<Array<std::int64_t>>& exclude) {
  if (!exclude) return;
  require(exclude->ndim() == 2 && extent(*exclude, 0) == request.q, "exclude must be (q, m)");
  request.exclude = exclude->data();
  request.exclude_width = extent(*exclude, 1);
}

}  // namespace resmem
