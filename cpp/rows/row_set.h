// The rows of all segments are numbered through, and a position is a row's number in that order.
// RowSet finds rows by position, and RowReader reads them.
#pragma once

#include <algorithm>
#include <vector>

#include "../base/prefetch.h"
#include "segment.h"

namespace resmem {

class RowSet {
 public:
  RowSet(const std::vector<Segment>& segments, std::size_t d) : segments_(segments), d_(d) {
    std::int64_t last = -1;
    for (const Segment& segment : segments_) {
      starts_.push_back(size_);
      size_ += segment.n;
      if (segment.ids == nullptr) {
        ascending_ = ascending_ && (segment.n == 0 || segment.first_id > last);
        if (segment.n > 0) last = segment.id(segment.n - 1);
      } else {
        ascending_ = false;
      }
    }
  }

  std::size_t size() const { return size_; }
  const std::vector<Segment>& segments() const { return segments_; }
  std::size_t start(std::size_t segment) const { return starts_[segment]; }
  std::size_t d() const { return d_; }
  // Tells whether ids are known to grow with position.
  bool ascending() const { return ascending_; }

  std::size_t segment_of(std::size_t position) const {
    return static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), position) -
                                    starts_.begin()) -
           1;
  }
  std::int64_t id(std::size_t position) const {
    const std::size_t s = segment_of(position);
    return segments_[s].id(position - starts_[s]);
  }

 private:
  const std::vector<Segment>& segments_;
  std::size_t d_;
  std::vector<std::size_t> starts_;
  std::size_t size_ = 0;
  bool ascending_ = true;
};

[[gnu::always_inline]] inline void prefetch_row(const Numbers& keys, std::size_t row,
                                                std::size_t d) {
  prefetch_bytes(keys.at(row * d), keys.bytes(d));
}

// Reads rows as float32, or float64 rows as they are. A pointer is valid until the next row is
// read.
class RowReader {
 public:
  RowReader(const RowSet& rows, const KernelTable& kernels) : rows_(rows), kernels_(kernels) {}

  // Reads `count` rows of a segment that follow one another.
  const float* rows(const Segment& segment, std::size_t first, std::size_t count) {
    const std::size_t d = rows_.d();
    if (segment.keys.type != NumberType::float32 && scratch_.size() < count * d)
      scratch_.resize(count * d);
    return segment.keys.read(first * d, count * d, scratch_.data(), kernels_);
  }
  const float* row(std::size_t position) {
    const std::size_t s = rows_.segment_of(position);
    return rows(rows_.segments()[s], position - rows_.start(s), 1);
  }
  // Returns the same rows of float64 keys, which are read where they lie.
  const double* wide_rows(const Segment& segment, std::size_t first) const {
    return segment.keys.wide(first * rows_.d());
  }
  const double* wide_row(std::size_t position) const {
    const std::size_t s = rows_.segment_of(position);
    return wide_rows(rows_.segments()[s], position - rows_.start(s));
  }
  // Asks for a row before it is needed, because survivors lie at random places.
  void prefetch(std::size_t position) const {
    const std::size_t s = rows_.segment_of(position);
    prefetch_row(rows_.segments()[s].keys, position - rows_.start(s), rows_.d());
  }

 private:
  const RowSet& rows_;
  const KernelTable& kernels_;
  std::vector<float> scratch_;
};

}  // namespace resmem
