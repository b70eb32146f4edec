// What becomes of neighbours on a device: weights, sums, strengths, probabilities
// (cpp/CONTRACT.md). No type of CUDA leaves this header.
#pragma once

#include <optional>

#include "../cpp/residuals/simplex_map.h"
#include "device.h"
#include "residuals.h"

namespace resmem {
namespace device {

// What base outputs are made of: logits, probabilities or values as a model gave them, or one
// number for all. With `none` the means over neighbours alone are wanted.
enum class OutputKind { none, logits, probabilities, values, constant };

// What is made of the neighbours of q queries. The arrays of a query that makes no sense get NaN,
// or -1 as its largest class (README.md, "Aggregation").
struct DeviceAggregate {
  // One of these is summed, a segment after the other.
  std::vector<const DenseResiduals*> dense;    // of one type
  std::vector<const SparseResiduals*> sparse;  // of one type and width
  std::vector<const RowLabels*> labels;
  std::vector<const RowWeights*> weights;  // none, or one a segment: null if each row weighs 1
  std::vector<std::size_t> rows;           // that count, of each segment
  std::size_t q = 0, columns = 0;
  double sigma = 1, strength = 1;
  Placed<const double> strengths;  // (q,) in the place of `strength`, or null

  OutputKind output_kind = OutputKind::none;
  NumberType output_type = NumberType::float32;
  Placed<const void> outputs;  // (q, columns)
  double temperature = 1;      // of logits
  double output_value = 0;     // if constant
  bool interpolate = false;    // between base outputs and what is summed

  const DeviceGate* gate = nullptr;
  std::vector<const RowLabels*> classes;  // one a segment, where the gate looks at agreement

  std::optional<SimplexMap> map;      // of all columns, before some are selected
  Placed<const std::int64_t> select;  // (q, selected), or (selected,) for all; null: all columns
  bool select_shared = false;
  std::size_t selected = 0;

  // One of these is wanted: the corrected outputs (q, width()), or the first largest column (q,) of
  // each, or what `names` (columns,) calls it.
  Placed<double> out;
  Placed<std::int64_t> largest;
  Placed<const std::int64_t> names;

  std::size_t width() const { return select.address == nullptr ? columns : selected; }
  bool out_on_device() const { return out.on_device || largest.on_device; }
};

// Neighbours that somebody found.
struct GivenNeighbours {
  Placed<const double> values;           // (q, k) of the metric, the nearest first
  Placed<const std::int64_t> positions;  // (q, k) through all segments; -1 is padding, at the end
  std::size_t k = 0;
  bool products = false;  // whether values are inner products
};

// Where and how queries are worked on.
struct DeviceCall {
  int device = 0;
  StreamHandle stream;
  std::size_t workspace_bytes = 0;  // 0: an eighth of the free memory, at most 1 GiB
  std::size_t forced_queries = 0;  // that are worked on together; 0: as many as there is memory for
};

// Fills `out` or `largest`. Where all arrays are on the device, the stream is only asked for it.
// `poll` is called while the host waits for results; what it throws comes out. Throws DeviceError.
void aggregate(const DeviceAggregate& request, const GivenNeighbours& neighbours,
               const DeviceCall& call, const std::function<void()>& poll);

// Does the same with the neighbours that are searched for, whose arrays are left to it.
void correct(const DeviceSearch& search, const DeviceAggregate& request, std::size_t forced_queries,
             const std::function<void()>& poll);

}  // namespace device
}  // namespace resmem
