// This kernel makes codes of rows or queries. A warp works on one vector.
#pragma once

#include "codes.h"
#include "numbers.cuh"
#include "points.h"

namespace resmem {
namespace device {

inline constexpr unsigned kCodeThreads = 128;

template <class T>
struct CodeArgs {
  const T* vectors;  // (n, d)
  std::size_t n;
  unsigned d;
  KeyKind kind;
  bool queries;                         // whether they are queries, and not rows
  const std::uint64_t* largest_square;  // bits of the largest square of a row, for inner products
  const double* offset;                 // (point_dimensions(),)
  const std::uint32_t* order;           // (n,) vector of each place, or null: it is the place
  std::int8_t* codes;                   // (n, depth) by place, or null: facts are wanted alone
  CodeFacts* facts;                     // (n,) by place
  double* squares;                      // (n,) by place, of vectors; null where nobody asks
};

// A vector that is to be coded, and its point.
template <class T>
struct Source {
  const T* x;
  const double* offset;
  unsigned d, dimensions;
  Point point;
};

// A lane holds coordinates `lane` and `lane + 32` of each block of 64.
struct Pair {
  double low, high;
};

// Returns coordinate i of the point less the offset, its sign turned or not; 0 behind the last.
template <class T>
RESMEM_DEVICE double coordinate(const Source<T>& from, unsigned i) {
  if (i >= from.dimensions) return 0;
  const double at = i < from.d ? wide(from.x[i]) * from.point.scale : from.point.lift;
  return turned(i) ? from.offset[i] - at : at - from.offset[i];
}

// Returns a block after its Hadamard rotation. A level replaces each pair of coordinates whose
// numbers differ in one bit, from the highest bit to the lowest, by their sum and their difference;
// the division by 8 at the end is exact.
template <class T>
RESMEM_DEVICE Pair rotated_block(const Source<T>& from, unsigned block) {
  const unsigned i = block * kBlockDimensions + simt::lane();
  const double first = coordinate(from, i), second = coordinate(from, i + simt::kWarp);
  Pair y = {first + second, first - second};
  for (unsigned bit = simt::kWarp / 2; bit > 0; bit /= 2) {
    const double low = simt::shuffle_xor(y.low, bit), high = simt::shuffle_xor(y.high, bit);
    const bool upper = (simt::lane() & bit) != 0;
    y = {upper ? low - y.low : y.low + low, upper ? high - y.high : y.high + high};
  }
  return {y.low * 0.125, y.high * 0.125};
}

RESMEM_DEVICE double magnitude(double y) { return y < 0 ? -y : y; }

// What is known of codes with one exponent: their squares, and how far off they are.
struct Coded {
  std::int32_t square;
  double off_square;
};

// Writes the codes to `codes`, unless it is null.
template <class T>
RESMEM_DEVICE Coded code_vector(const Source<T>& from, int exponent, std::int8_t* codes) {
  const double scale = power_of_two(exponent), unit = power_of_two(-exponent);
  Coded coded{0, 0};
  for (unsigned block = 0; block * kBlockDimensions < from.dimensions; ++block) {
    const Pair y = rotated_block(from, block);
    const int low = code_of(y.low, scale), high = code_of(y.high, scale);
    const double off_low = low * unit - y.low, off_high = high * unit - y.high;
    coded.square += low * low + high * high;
    coded.off_square += off_low * off_low;
    coded.off_square += off_high * off_high;
    if (codes == nullptr) continue;
    codes[block * kBlockDimensions + simt::lane()] = static_cast<std::int8_t>(low);
    codes[block * kBlockDimensions + simt::lane() + simt::kWarp] = static_cast<std::int8_t>(high);
  }
  return {simt::sum_over_lanes(coded.square), simt::sum_over_lanes(coded.off_square)};
}

// Returns the square of a vector's length, off by no more than a canonical sum of its terms.
template <class T>
RESMEM_DEVICE double square_of(const T* x, unsigned d) {
  double square = 0;
  for (unsigned i = simt::lane(); i < d; i += simt::kWarp) square += wide(x[i]) * wide(x[i]);
  return simt::sum_over_lanes(square);
}

// Returns the facts of a vector that is not finite: it is within reach of everything, and its
// canonical key decides.
RESMEM_DEVICE CodeFacts facts_of_damaged(std::uint32_t vector) {
  return {0, static_cast<float>(__builtin_inf()), 0, vector};
}

// Makes the codes and facts of one vector. The exponent is the largest that cuts nothing off, or
// the next one, whichever has the smaller error.
template <class T>
RESMEM_DEVICE CodeFacts coded(const Source<T>& from, std::uint32_t vector, std::int8_t* codes) {
  double largest = 0, square = 0;
  for (unsigned block = 0; block * kBlockDimensions < from.dimensions; ++block) {
    const Pair y = rotated_block(from, block);
    largest = magnitude(y.low) > largest ? magnitude(y.low) : largest;
    largest = magnitude(y.high) > largest ? magnitude(y.high) : largest;
    square += y.low * y.low;
    square += y.high * y.high;
  }
  square = simt::sum_over_lanes(square);
  const unsigned depth = depth_of(from.dimensions);
  if (!(square - square == 0)) {
    for (unsigned i = simt::lane(); codes != nullptr && i < depth; i += simt::kWarp) codes[i] = 0;
    return facts_of_damaged(vector);
  }
  int exponent = exponent_for(simt::largest_over_lanes(largest));
  Coded kept = code_vector(from, exponent, codes);
  if (code_vector(from, exponent + 1, nullptr).off_square < kept.off_square)
    kept = code_vector(from, ++exponent, codes);
  return {kept.square, error_from(kept.off_square, square, from.point.off, depth), exponent,
          vector};
}

template <class T>
RESMEM_KERNEL void RESMEM_BOUNDS(kCodeThreads, 4) code_vectors(const CodeArgs<T> args) {
  const std::size_t place =
      (std::size_t{simt::block_x()} * simt::threads() + simt::thread()) / simt::kWarp;
  if (place >= args.n) return;  // with all lanes of the warp
  const auto vector = args.order != nullptr ? args.order[place] : static_cast<std::uint32_t>(place);
  const T* x = args.vectors + std::size_t{vector} * args.d;
  const double square = args.kind == KeyKind::squared_distance ? 0 : square_of(x, args.d);
  const double longest = longest_of(args.kind, args.largest_square, args.d);
  const Point point = args.queries ? query_point(args.kind, square, longest, args.d)
                                   : row_point(args.kind, square, longest, args.d);
  const unsigned dimensions = point_dimensions(args.kind, args.d);
  std::int8_t* codes = args.codes != nullptr ? args.codes + place * depth_of(dimensions) : nullptr;
  const CodeFacts facts =
      coded(Source<T>{x, args.offset, args.d, dimensions, point}, vector, codes);
  if (simt::lane() != 0) return;
  args.facts[place] = facts;
  if (args.squares != nullptr) args.squares[place] = square;
}

inline constexpr unsigned kOffsetRows = 1024;  // rows at most whose mean is the offset

// Returns the row that is number i of `count` with equal steps between them.
RESMEM_HOST_DEVICE std::size_t sampled_row(std::size_t i, std::size_t count, std::size_t n) {
  return i * n / count;
}

// Squares the lengths of `count` of n rows. They go to `squares` (count,), unless it is null, and
// `largest`, unless it is null, becomes at least the bits of the largest. Damaged rows do not
// count.
template <class T>
RESMEM_KERNEL void RESMEM_BOUNDS(kCodeThreads, 8)
    square_rows(const T* rows, std::size_t n, std::size_t count, unsigned d, double* squares,
                std::uint64_t* largest) {
  const std::size_t i =
      (std::size_t{simt::block_x()} * simt::threads() + simt::thread()) / simt::kWarp;
  if (i >= count) return;  // with all lanes of the warp
  const double square = square_of(rows + sampled_row(i, count, n) * d, d);
  if (simt::lane() != 0) return;
  if (squares != nullptr) squares[i] = square;
  std::uint64_t bits;
  memcpy(&bits, &square, sizeof bits);
  if (largest != nullptr && square - square == 0) simt::atomic_max(largest, bits);
}

// offset[i] becomes the mean of coordinate i over the points of `count` rows, whose squares are
// known but for squared distances. Any number would do; one amid the points makes codes fine. A
// thread works on one coordinate.
template <class T>
RESMEM_KERNEL void RESMEM_BOUNDS(kCodeThreads, 8)
    mean_point(const T* rows, std::size_t n, std::size_t count, unsigned d, KeyKind kind,
               const double* squares, const std::uint64_t* largest, double* offset) {
  const unsigned i = simt::block_x() * simt::threads() + simt::thread();
  if (i >= point_dimensions(kind, d)) return;
  const double longest = longest_of(kind, largest, d);
  double sum = 0;
  for (std::size_t r = 0; r < count; ++r) {
    const double square = squares != nullptr ? squares[r] : 0;
    const Point point = row_point(kind, square, longest, d);
    sum += i < d ? wide(rows[sampled_row(r, count, n) * d + i]) * point.scale : point.lift;
  }
  const double mean = sum / static_cast<double>(count);
  offset[i] = mean - mean == 0 ? mean : 0;
}

}  // namespace device
}  // namespace resmem
