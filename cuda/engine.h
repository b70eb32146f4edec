// What the two halves of device.h share: rows that are resident, and how kernels are started.
#pragma once

#include <stdexcept>

#include "codes.cuh"
#include "device.h"
#include "filter.h"
#include "launch.h"

namespace resmem {
namespace device {

// Rows that were coded together. All arrays are by place; without codes, places are row numbers.
struct Part {
  std::size_t first = 0, n = 0;  // rows of the segment
  Memory codes, facts, tiles, offset;
  Memory largest_square;  // bits of one float64, for inner products
  bool coded = false;     // whether there are codes

  std::size_t bytes() const {
    return codes.bytes() + facts.bytes() + tiles.bytes() + offset.bytes() + largest_square.bytes();
  }
};

// An attribute of the first rows of a segment.
struct ResidentAttribute {
  std::shared_ptr<const Memory> values;  // (n,) int64, or null: there are none
  std::size_t n = 0;

  const std::int64_t* from(std::size_t row) const {
    return values != nullptr ? values->of<std::int64_t>() + row : nullptr;
  }
};

// The rows of a segment at one moment. What was allocated lives as long as somebody looks at it.
struct ResidentRows {
  const void* keys = nullptr;  // (staying, d) on the device
  std::size_t n = 0, staying = 0;
  std::shared_ptr<const Memory> kept_keys, ids, died;  // null: borrowed, consecutive, all live
  std::int64_t first_id = 0;
  ResidentAttribute times, groups;
  std::vector<std::shared_ptr<const Part>> parts;  // of the rows that stay
  const char* host_keys = nullptr;                 // (n, d), where some do not
  std::shared_ptr<const void> keeper;              // of those

  const ResidentAttribute& attribute(Attribute which) const {
    return which == Attribute::time ? times : groups;
  }
};

// What slabs take of a device at most, and what share of the bytes that rows may take.
inline constexpr std::size_t kMostSlabBytes = std::size_t{512} << 20;
inline constexpr std::size_t kSlabShare = 4;

inline KeyKind kind_of(Metric metric) {
  switch (metric) {
    case Metric::euclidean:
    case Metric::sqeuclidean:
      break;
    case Metric::cosine:
      return KeyKind::cosine;
    case Metric::inner_product:
      return KeyKind::inner_product;
  }
  return KeyKind::squared_distance;
}

// Calls work(x), with x a null pointer to the type that numbers have on a device.
template <class Work>
auto with_type(NumberType type, const Work& work) {
  switch (type) {
    case NumberType::float32:
      break;
    case NumberType::float16:
      return work(static_cast<const Float16*>(nullptr));
    case NumberType::bfloat16:
      return work(static_cast<const Bfloat16*>(nullptr));
    case NumberType::float64:
      return work(static_cast<const double*>(nullptr));
  }
  return work(static_cast<const float*>(nullptr));
}

inline std::size_t bytes_of(NumberType type) { return Numbers{nullptr, type}.bytes(1); }

// Returns how many blocks of so many threads there are for `count` threads.
inline unsigned blocks_for(std::size_t count, unsigned threads) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}
inline simt::Launch threads_for(const char* name, std::size_t count, unsigned threads) {
  return {name, {blocks_for(count, threads)}, threads};
}

// Up to so many bytes nobody asks what is free, which takes longer than a search of few queries.
inline constexpr std::size_t kSmallWorkspace = std::size_t{64} << 20;

// Returns how many bytes a call may take for arrays of its own; `asked` is 0 if nobody says so.
std::size_t workspace_bytes(std::size_t asked);

// Codes vectors; a warp works on one.
template <class T>
void code(StreamHandle stream, const CodeArgs<T>& args) {
  simt::launch(threads_for("code_vectors", args.n * simt::kWarp, kCodeThreads), stream,
               &code_vectors<T>, args);
}

// Numbers that are sorted by their lowest bytes, and their values. Sorting needs twice their
// memory.
struct Sorting {
  std::uint32_t *keys, *values, *other_keys, *other_values, *counts;

  static Sorting in(Arrays& arrays, std::size_t n);
};

// Sorts n numbers by their lowest `bits`, a multiple of 8. Keys and values are then those returned.
Sorting sorted_by(StreamHandle stream, Sorting sorting, std::size_t n, unsigned bits);

// Returns the order in which vectors with these facts are coded: the number of each place, (n,).
const std::uint32_t* arranged(StreamHandle stream, const CodeFacts* facts, std::size_t n,
                              unsigned depth, bool queries, Sorting sorting);

}  // namespace device
}  // namespace resmem
