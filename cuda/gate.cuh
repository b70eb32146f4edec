// This kernel finds the strength that a gate leaves each query (cpp/CONTRACT.md, "Gates"). A block
// works on one query.
#pragma once

#include "residuals.h"
#include "weigh.cuh"

namespace resmem {
namespace device {

struct GateArgs {
  unsigned count;
  GateStep steps[kFeatures];
  double strength;
  Weighed weighed;
  const double* base;  // (queries, columns), for the confidence
  std::size_t columns, k;
  const std::int64_t* classes;  // (queries, k) of the neighbours, for the agreement
  const double* weights;        // (queries, k)
  double* strengths;            // (queries,)
};

RESMEM_DEVICE double confidence_of(const GateArgs& args, std::size_t query, RowShared& shared) {
  double largest = -__builtin_inf();
  for (std::size_t c = simt::thread(); c < args.columns; c += simt::threads()) {
    const double probability = args.base[query * args.columns + c];
    largest = probability > largest ? probability : largest;
  }
  return block_largest(largest, shared);
}

// Returns the largest share of the neighbours' weight that a class has. A thread adds up the
// weights of one neighbour's class, in the order of the neighbours.
RESMEM_DEVICE double agreement_of(const GateArgs& args, std::size_t query, RowShared& shared) {
  const std::int64_t* classes = args.classes + query * args.k;
  const double* weights = args.weights + query * args.k;
  const unsigned count = args.weighed.counts[query];
  double largest = 0;
  for (unsigned j = simt::thread(); j < count; j += simt::threads()) {
    double sum = 0;
    for (unsigned i = 0; i < count; ++i) sum += classes[i] == classes[j] ? weights[i] : 0;
    largest = sum > largest ? sum : largest;
  }
  return block_largest(largest, shared) / args.weighed.totals[query];
}

// Returns the factor of a step. NaN is beyond all edges.
RESMEM_DEVICE double factor_of(const GateStep& step, double value) {
  std::uint32_t below = 0;
  while (below < step.edge_count && !(value <= step.edges[below])) ++below;
  return step.factors[below];
}

RESMEM_KERNEL void RESMEM_BOUNDS(kRowThreads, 4) gate_queries(const GateArgs args) {
  auto& shared = *simt::shared_memory<RowShared>();
  const std::size_t query = simt::block_x();
  double factor = 1;
  RESMEM_ROLLED
  for (unsigned s = 0; s < args.count; ++s) {
    const GateStep& step = args.steps[s];
    const double value = step.feature == Feature::distance     ? args.weighed.nearest[query]
                         : step.feature == Feature::confidence ? confidence_of(args, query, shared)
                                                               : agreement_of(args, query, shared);
    factor *= factor_of(step, value);
  }
  if (simt::thread() == 0) args.strengths[query] = args.strength * factor;
}

}  // namespace device
}  // namespace resmem
