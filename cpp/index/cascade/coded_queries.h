// Queries as a cascade sees them, and the bounds of their distances that every stage promises.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "../../base/rounding.h"
#include "../../flat/canonical.h"
#include "cascade.h"

namespace resmem {

// The numbers that are known of a query before any row is looked at. Distances and errors are upper
// ends.
struct CodedQuery {
  KeyDistance keys;
  double point_off;      // the distance of the computed point from the exact one
  double slack;          // the distance of the computed Phi from that of the exact point
  double error;          // |coded Phi - Phi|
  std::int64_t square;   // |code|^2
  double unit;           // of its weights; a product of codes stands for so many times as much
  double offset_square;  // |q - o|^2
  double off;            // the error of a squared distance by coded rows, without that of the rows
};

class CodedQueries {
 public:
  // Codes the queries of the scope. Throws Interrupted.
  CodedQueries(const Cascade& cascade, const IndexScope& scope);

  // Here and below, query i counts from the scope's first.
  const CodedQuery& operator[](std::size_t i) const { return coded_[i]; }
  const CanonicalKey& canonical(std::size_t i) const { return canonical_[i]; }
  const std::uint8_t* codes(std::size_t i) const { return &codes_[i * cascade_.depth]; }
  const double* away(std::size_t i) const { return &away_[i * cascade_.clusters]; }

  // Each stage promises a bound, and README.md derives all three.
  //
  // No row of the chunk is nearer than this to a query that is `away` from its cluster's centre.
  double nearest_in_chunk(const Chunk& chunk, double away, double slack) const {
    const double outside = away * (1 - theta_) - static_cast<double>(chunk.far);
    const double inside = static_cast<double>(chunk.near) - away * (1 + theta_);
    return std::max(0.0, std::max(outside, inside) - slack);
  }
  // No row of the chunk within `reach` has codes whose squared distance exceeds this.
  double largest_code_square(const Chunk& chunk, double reach, double error) const {
    const double units = cascade_.scale * (reach + error + static_cast<double>(chunk.error));
    return units * units * (1 + 16 * kV);
  }
  // Writes the squared distances between a coded row and some queries. Their error is at most
  // `off`, and that of their roots at most coded_error() more.
  static constexpr std::size_t kMostSquares = 8;
  void coded_squares(std::size_t place, const std::size_t* queries, std::size_t count,
                     double* squares) const {
    const std::size_t depth = cascade_.code_depth;
    const std::int16_t* weights[kMostSquares];
    std::int32_t products[kMostSquares];
    for (std::size_t j = 0; j < count; ++j) weights[j] = &weights_[queries[j] * depth];
    kernels_.codes.dots(&cascade_.codes[place * depth], weights, count, depth, products);
    const auto square = static_cast<double>(cascade_.coded[place].square);
    for (std::size_t j = 0; j < count; ++j) {
      const CodedQuery& coded = coded_[queries[j]];
      squares[j] = square + coded.offset_square - 2 * coded.unit * static_cast<double>(products[j]);
    }
  }
  double coded_error(std::size_t i, std::size_t place) const {
    return static_cast<double>(cascade_.coded[place].error) + coded_[i].point_off;
  }
  // Tells whether the row may lie within the reach. The factor covers the roundings of both sides.
  bool may_reach(std::size_t i, double square, double error, double reach) const {
    return square - coded_[i].off <= (reach + error) * (reach + error) * (1 + 0x1p-40);
  }
  // Return both ends of the row's distance. Ends are ordered later, so that a NaN becomes the end
  // that rules nothing out.
  double low(std::size_t i, double square, double error) const {
    const double end = std::sqrt(std::max(0.0, square - coded_[i].off)) * (1 - 8 * kV) - error;
    return std::isnan(end) ? 0 : end;
  }
  double high(std::size_t i, double square, double error) const {
    const double end = std::sqrt(std::max(0.0, square + coded_[i].off)) * (1 + 8 * kV) + error;
    return std::isnan(end) ? std::numeric_limits<double>::infinity() : end;
  }

 private:
  void code(std::size_t i, const float* point, const float* layer);
  void code_weights(std::size_t i, const float* point);

  const Cascade& cascade_;
  const KernelTable& kernels_;
  const double theta_;  // the relative rounding of a canonical squared distance between points
  std::vector<CodedQuery> coded_;
  std::vector<CanonicalKey> canonical_;
  AlignedVector<std::uint8_t> codes_;    // (count, depth)
  AlignedVector<std::int16_t> weights_;  // (count, code_depth), multiplied by a row's codes
  std::vector<double> away_;             // (count, clusters)
  std::vector<const float*> centres_;
};

}  // namespace resmem
