// Holds the rows of a segment as Python hands them to the core, with their arrays.
#pragma once

#include <string>

#include "../index/row_index.h"
#include "../rows/segment.h"
#include "bindings.h"

namespace resmem {

struct BoundSegment {
  Segment segment;
  std::size_t d = 0;
  // What the segment points into; all but the keys may be None.
  py::object keys, ids, died, times, groups, index;

  BoundSegment(const py::array& rows, const py::object& row_ids, std::int64_t first_id,
               const py::object& removals, double largest, const py::object& row_index,
               const py::object& row_times, const py::object& row_groups)
      : keys(rows), ids(row_ids), died(removals), times(row_times), groups(row_groups) {
    require(rows.ndim() == 2 && extent(rows, 1) > 0, "segment keys must be (n, d), d >= 1");
    d = extent(rows, 1);
    segment.keys = stored_numbers(rows, "segment keys", d, true);
    segment.n = extent(rows, 0);
    segment.ids = numbers_of(ids);
    segment.first_id = first_id;
    segment.died = numbers_of(died);
    segment.times = numbers_of(times);
    segment.groups = numbers_of(groups);
    segment.max_abs = largest;
    take_index(row_index);
  }

  // Returns the same rows, to be searched through another index or none.
  BoundSegment with_index(const py::object& other) const {
    BoundSegment same = *this;
    same.take_index(other);
    return same;
  }

 private:
  void take_index(const py::object& row_index) {
    index = row_index;
    segment.index = index.is_none() ? nullptr : index.cast<const RowIndex*>();
    if (segment.index == nullptr) return;
    const std::string kind = segment.index->kind().name;
    require(segment.index->dimensions() == d && segment.index->covers() <= segment.n,
            ("the " + kind + " is not one of this segment").c_str());
  }

  const std::int64_t* numbers_of(const py::object& object) const {
    if (object.is_none()) return nullptr;
    const auto array =
        exact_array<std::int64_t>(object, "contiguous int64 ids, versions, times or groups");
    require(array.ndim() == 1 && extent(array, 0) == segment.n,
            "segment ids, died, times and groups must be (n,)");
    return array.data();
  }
};

inline const BoundSegment& bound_segment(const py::handle& object) {
  if (!py::isinstance<BoundSegment>(object))
    throw py::type_error("segments must be of type Segment, got " +
                         std::string(py::str(py::type::of(object))));
  return object.cast<const BoundSegment&>();
}

}  // namespace resmem
