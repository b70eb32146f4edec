// Exact search on a device: rows that live there, and the search for the nearest of them. No type
// of CUDA leaves this header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "../cpp/rows/segment.h"
#include "memory.h"

namespace resmem {
namespace device {

// Rows of one segment as the caller has them, on the host or on the device.
struct GivenRows {
  const void* keys = nullptr;  // (n, d)
  std::size_t n = 0;
  bool on_device = false;             // whether the keys are
  const std::int64_t* ids = nullptr;  // (n,) on the host, or null
  std::int64_t first_id = 0;
  // Keeps keys of the host, of which those that do not fit the device are read by searches.
  std::shared_ptr<const void> keeper;
  // The bytes of the device that these rows may take; none: what is free, less what searches need.
  std::optional<std::size_t> most_bytes;
};

// What rows may have besides keys and ids: an int64 each, for which few searches ask.
enum class Attribute { time, group };

struct Part;
struct ResidentRows;
class Lanes;

// The rows of a segment on a device, with their codes. Rows are added behind those that are there,
// and removals are noted; searches that run meanwhile see what was there when they began. The first
// rows stay on the device, as many as may; the keys of the rest are brought by every search anew,
// slab by slab. Any number of threads may call everything here.
class DeviceRows {
 public:
  // Rows are kept until this goes, or, with a stream, for the work of that stream alone: such rows
  // are given once, and keys that are on the device are read where they lie. Parts of fewer rows
  // than `least_coded` have no codes.
  DeviceRows(const MemorySource& source, NumberType type, std::size_t d, Metric metric,
             std::size_t least_coded);
  ~DeviceRows();

  // Brings the rows that are not there yet. Throws DeviceError, and then nothing has changed.
  void extend(const GivenRows& rows);
  // Brings those of an attribute's values (n,) of the first n rows that are not there yet.
  void bring(Attribute attribute, const std::int64_t* values, std::size_t n);
  // Marks rows, (count,), as removed at the versions `stamps`.
  void remove(const std::int64_t* rows, const std::int64_t* stamps, std::size_t count);

  int device() const { return source_.device; }
  NumberType type() const { return type_; }
  std::size_t dimensions() const { return d_; }
  Metric metric() const { return metric_; }
  std::size_t least_coded() const { return least_coded_; }
  std::size_t n() const;
  std::size_t known(Attribute attribute) const;  // rows whose values were brought
  std::size_t staying() const;                   // rows whose keys stay on the device
  std::size_t bytes() const;                     // that all of this takes of the device
  std::shared_ptr<const ResidentRows> resident() const;

 private:
  void publish(ResidentRows next);

  const MemorySource source_;
  const NumberType type_;
  const std::size_t d_;
  const Metric metric_;
  const std::size_t least_coded_;
  std::mutex growing_;        // of the one call that changes rows
  mutable std::mutex mutex_;  // guards what follows, but never while anything is brought
  std::shared_ptr<const ResidentRows> resident_;
};

// What tests force of a search; results never depend on it. 0 leaves a number to the search.
struct ForcedSearch {
  std::size_t first_phase = 0;  // rows, a multiple of 128
  std::size_t capacity = 0;     // hits of a query that are kept
  std::size_t queries = 0;      // that are searched together
  std::size_t listed = 0;       // rows that are listed at most, if queries see some alone
  std::size_t slab_rows = 0;    // a multiple of 128
};

// Numbers of each query.
struct QueryNumbers {
  const std::int64_t* numbers = nullptr;  // (q, width), or null: there are none
  std::size_t width = 0;
  bool on_device = false;

  // Returns the numbers from a query on.
  QueryNumbers from(std::size_t query) const {
    return {numbers == nullptr ? nullptr : numbers + query * width, width, on_device};
  }
};

struct DeviceSearch {
  struct Searched {
    const DeviceRows* rows;
    std::size_t n;         // rows that count: what was added later is not seen
    std::size_t position;  // of the first row, among all rows of the search
  };
  std::vector<Searched> segments;               // on any devices
  const void* queries = nullptr;                // (q, d)
  NumberType query_type = NumberType::float32;  // or float64, as it is where the rows are
  bool queries_on_device = false;
  std::size_t q = 0, d = 0, k = 0;
  Metric metric = Metric::euclidean;
  // Which rows queries see: none that were removed at this version or before, whose ids or groups
  // are in the query's list, or whose times are not smaller than `before`, of width 1.
  std::int64_t version = 0;
  QueryNumbers excluded, excluded_groups, before;
  AmongRows among;  // on the host
  // (q, k) each; positions may be null.
  double* values = nullptr;
  std::int64_t *ids = nullptr, *positions = nullptr;
  bool output_on_device = false;
  bool raw_keys = false;  // whether values are canonical keys, by which results can be merged
  int device = 0;
  StreamHandle stream;
  std::size_t workspace_bytes = 0;  // 0: an eighth of the free memory, at most 1 GiB
  std::size_t slab_bytes = 0;       // for slabs and their codes; 0: kMostSlabBytes, or less
  Lanes* lanes = nullptr;           // kept for searches that bring slabs; null: made for this one
  ForcedSearch forced;

  // Returns how many rows there are at all positions.
  std::size_t rows() const;
  // Returns the search of some of the queries, without arrays for results.
  DeviceSearch of_queries(std::size_t first, std::size_t count) const;
};

// What really ran. The pairs of queries and rows that filters saw are known at once, the rest only
// once the stream is done.
struct DeviceStats {
  std::uint64_t pairs_filtered = 0;  // by tiles of 128 queries
  std::uint64_t pairs_streamed = 0;  // by few queries
  std::uint64_t hits = 0, rescored = 0, compared = 0, given_up = 0;
  std::uint64_t query_blocks = 0;
  std::uint64_t slabs = 0, slab_bytes = 0;  // that were brought, and their keys
  std::uint64_t devices = 0;

  DeviceStats& operator+=(const DeviceStats& other) {
    pairs_filtered += other.pairs_filtered;
    pairs_streamed += other.pairs_streamed;
    hits += other.hits;
    rescored += other.rescored;
    compared += other.compared;
    given_up += other.given_up;
    query_blocks += other.query_blocks;
    slabs += other.slabs;
    slab_bytes += other.slab_bytes;
    devices += other.devices;
    return *this;
  }
};

// Finds the exact nearest rows, as CONTRACT.md says. Where inputs and outputs are on the device, it
// only asks the stream for it, and does not wait unless `stats` are wanted, or rows come from the
// host. `poll` is called while the host waits; what it throws comes out. Throws DeviceError.
void search(const DeviceSearch& request, const std::function<void()>& poll, DeviceStats* stats);

}  // namespace device
}  // namespace resmem
