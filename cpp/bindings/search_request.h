// A SearchRequest from Python objects, kept alive by the caller's arguments.
#pragma once

#include <string>

#include "../core/types.h"
#include "bindings.h"

namespace resmem {

template <class T>
T choice(const std::string& name, std::initializer_list<std::pair<const char*, T>> choices) {
  std::string known;
  for (const auto& [key, value] : choices) {
    if (name == key) return value;
    known += (known.empty() ? "'" : ", '") + std::string(key) + "'";
  }
  throw py::value_error("expected one of " + known + ", got '" + name + "'");
}

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

// (rows, ids or None, first_id, alive or None, max_abs)
inline Segment segment_from(const py::tuple& parts, std::size_t d) {
  Segment segment;
  const auto rows = parts[0].cast<Array<float>>();
  require(rows.ndim() == 2 && extent(rows, 1) == d, "segment rows must be (n, d)");
  segment.rows = rows.data();
  segment.n = extent(rows, 0);
  if (!parts[1].is_none()) {
    const auto ids = parts[1].cast<Array<std::int64_t>>();
    require(ids.ndim() == 1 && extent(ids, 0) == segment.n, "segment ids must be (n,)");
    segment.ids = ids.data();
  }
  segment.first_id = parts[2].cast<std::int64_t>();
  if (!parts[3].is_none()) {
    const auto alive = parts[3].cast<Array<bool>>();
    require(alive.ndim() == 1 && extent(alive, 0) == segment.n, "segment alive must be (n,)");
    static_assert(sizeof(bool) == sizeof(std::uint8_t));
    segment.alive = static_cast<const std::uint8_t*>(static_cast<const void*>(alive.data()));
  }
  segment.max_abs = parts[4].cast<float>();
  return segment;
}

inline SearchRequest request_from(const Array<float>& queries, float queries_max_abs,
                                  const py::list& segments, std::size_t k,
                                  const std::string& metric) {
  require(queries.ndim() == 2, "queries must be (q, d)");
  SearchRequest request;
  request.queries = queries.data();
  request.q = extent(queries, 0);
  request.d = extent(queries, 1);
  request.queries_max_abs = queries_max_abs;
  request.k = k;
  request.metric = metric_named(metric);
  for (const py::handle& segment : segments)
    request.segments.push_back(segment_from(segment.cast<py::tuple>(), request.d));
  return request;
}

}  // namespace resmem
