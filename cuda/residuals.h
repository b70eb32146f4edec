// What is summed of rows, their own weights and the steps of a gate, as they live on a device. No
// type of CUDA leaves this header.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "../cpp/rows/numbers.h"
#include "memory.h"

namespace resmem {
namespace device {

// An array where it lies.
template <class T>
struct Placed {
  T* address = nullptr;
  bool on_device = false;
};

// Arrays of the rows of one segment, which grow together. What runs meanwhile sees what was there
// when it began. Any number of threads may call everything here.
class RowArrays {
 public:
  // The arrays at one moment. They live as long as somebody looks at them.
  struct State {
    std::size_t n = 0, capacity = 0;
    std::vector<const void*> arrays;
    std::vector<std::shared_ptr<const Memory>> kept;  // null where an array is borrowed
  };

  // Rows are kept until this goes, or, with a stream, for the work of that stream alone: such rows
  // are given once, and arrays that are on the device are read where they lie.
  RowArrays(const MemorySource& source, std::vector<std::size_t> row_bytes);

  int device() const { return source_.device; }
  std::size_t n() const { return now()->n; }
  std::size_t bytes() const;
  std::shared_ptr<const State> now() const;

 protected:
  // Checks rows of this range before they are brought. What it throws comes out.
  using Check = std::function<void(std::size_t first, std::size_t n)>;

  // Brings those of the n rows that are not there yet. Throws DeviceError, and then nothing has
  // changed.
  void extend(const std::vector<Placed<const void>>& arrays, std::size_t n, const Check& check);

 private:
  const MemorySource source_;
  const std::vector<std::size_t> row_bytes_;
  std::mutex growing_;        // of the one call that extends
  mutable std::mutex mutex_;  // guards what follows, but never while anything is brought
  std::shared_ptr<const State> state_;
};

// Residuals or values, (n, columns) of float32, float16 or float64.
class DenseResiduals : public RowArrays {
 public:
  DenseResiduals(const MemorySource& source, NumberType type, std::size_t columns);
  void extend(Placed<const void> residuals, std::size_t n);
  NumberType type() const { return type_; }
  std::size_t columns() const { return columns_; }

 private:
  const NumberType type_;
  const std::size_t columns_;
};

// A few residuals of each row, and what the others are: index and value (n, width), rest (n,).
class SparseResiduals : public RowArrays {
 public:
  SparseResiduals(const MemorySource& source, NumberType type, std::size_t columns,
                  std::size_t width);
  // All arrays are on the host. Throws DamagedRows.
  void extend(const std::int32_t* index, const void* value, const float* rest, std::size_t n);
  NumberType type() const { return type_; }
  std::size_t columns() const { return columns_; }
  std::size_t width() const { return width_; }
  // Tells whether some row may have an index twice.
  bool repeats() const { return repeats_; }

 private:
  void check(const std::int32_t* index, std::size_t first, std::size_t n);
  const NumberType type_;
  const std::size_t columns_, width_;
  std::atomic<bool> repeats_{false};
};

// Classes (n,), each of which stands for its one-hot row.
class RowLabels : public RowArrays {
 public:
  RowLabels(const MemorySource& source, std::size_t columns);
  // Labels are on the host. Throws DamagedRows.
  void extend(const std::int64_t* labels, std::size_t n);
  std::size_t columns() const { return columns_; }

 private:
  const std::size_t columns_;
};

// Weights (n,) that rows have of their own.
class RowWeights : public RowArrays {
 public:
  explicit RowWeights(const MemorySource& source);
  void extend(const double* weights, std::size_t n);  // on the host
};

// What a step of a gate looks at.
enum class Feature { distance, confidence, agreement };
inline constexpr std::size_t kFeatures = 3;

// A step as a kernel sees it: factor i is that of values with i edges below.
struct GateStep {
  Feature feature;
  std::uint32_t edge_count;
  const double *edges, *factors;
};

// Steps by which the strength of a query is multiplied (cpp/CONTRACT.md, "Gates").
class DeviceGate {
 public:
  struct Step {
    Feature feature;
    std::vector<double> edges, factors;  // factors are one more
  };

  // No feature comes twice.
  DeviceGate(int device, const std::vector<Step>& steps);
  int device() const { return device_; }
  std::size_t bytes() const { return numbers_.bytes(); }
  const std::vector<GateStep>& steps() const { return steps_; }
  bool looks_at(Feature feature) const;

 private:
  const int device_;
  Memory numbers_;
  std::vector<GateStep> steps_;
};

}  // namespace device
}  // namespace resmem
