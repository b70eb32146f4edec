// This kernel makes codes of rows or queries. A warp works on one vector.
#pragma once

#include "codes.h"

namespace resmem {
namespace device {

// A lane holds coordinates `lane` and `lane + 32` of each block of 64.
struct Pair {
  double low, high;
};

// Returns the coordinates of a block before the rotation, with signs turned and zeros behind
// dimension d.
RESMEM_DEVICE Pair offset_pair(const float* x, const float* offset, unsigned d, unsigned block) {
  const unsigned i = block * kBlockDimensions + simt::lane(), j = i + simt::kWarp;
  const double low = i < d ? static_cast<double>(x[i]) - static_cast<double>(offset[i]) : 0.0;
  const double high = j < d ? static_cast<double>(x[j]) - static_cast<double>(offset[j]) : 0.0;
  return {turned(i) ? -low : low, turned(j) ? -high : high};
}

// Returns a block after its Hadamard rotation. A level replaces each pair of coordinates whose
// numbers differ in one bit, from the highest bit to the lowest, by their sum and their difference;
// the division by 8 at the end is exact.
RESMEM_DEVICE Pair rotated(Pair y) {
  y = {y.low + y.high, y.low - y.high};
  for (unsigned bit = simt::kWarp / 2; bit > 0; bit /= 2) {
    const double low = simt::shuffle_xor(y.low, bit), high = simt::shuffle_xor(y.high, bit);
    const bool upper = (simt::lane() & bit) != 0;
    y = {upper ? low - y.low : y.low + low, upper ? high - y.high : y.high + high};
  }
  return {y.low * 0.125, y.high * 0.125};
}

template <class T>
RESMEM_DEVICE T sum_over_lanes(T value) {
  for (unsigned bit = simt::kWarp / 2; bit > 0; bit /= 2) value += simt::shuffle_xor(value, bit);
  return value;
}

RESMEM_DEVICE double largest_over_lanes(double value) {
  for (unsigned bit = simt::kWarp / 2; bit > 0; bit /= 2) {
    const double other = simt::shuffle_xor(value, bit);
    value = other > value ? other : value;
  }
  return value;
}

RESMEM_DEVICE double magnitude(double y) { return y < 0 ? -y : y; }

// What is known of codes with one exponent: their squares, and how far off they are.
struct Coded {
  std::int32_t square;
  double off_square;
};

// Writes the codes to `codes`, unless it is null.
RESMEM_DEVICE Coded code_vector(const float* x, const float* offset, unsigned d, int exponent,
                                std::int8_t* codes) {
  const double scale = power_of_two(exponent), unit = power_of_two(-exponent);
  Coded coded{0, 0};
  for (unsigned block = 0; block * kBlockDimensions < d; ++block) {
    const Pair y = rotated(offset_pair(x, offset, d, block));
    const int low = code_of(y.low, scale), high = code_of(y.high, scale);
    const double off_low = low * unit - y.low, off_high = high * unit - y.high;
    coded.square += low * low + high * high;
    coded.off_square += off_low * off_low;
    coded.off_square += off_high * off_high;
    if (codes == nullptr) continue;
    codes[block * kBlockDimensions + simt::lane()] = static_cast<std::int8_t>(low);
    codes[block * kBlockDimensions + simt::lane() + simt::kWarp] = static_cast<std::int8_t>(high);
  }
  return {sum_over_lanes(coded.square), sum_over_lanes(coded.off_square)};
}

// Makes codes (n, depth_of(d)) and facts (n,) of n vectors (n, d). The exponent is the largest that
// cuts nothing off, or the next one, whichever has the smaller error.
RESMEM_KERNEL void code_vectors(const float* vectors, std::size_t n, unsigned d,
                                const float* offset, std::int8_t* codes, CodeFacts* facts) {
  const std::size_t row =
      (std::size_t{simt::block_x()} * simt::threads() + simt::thread()) / simt::kWarp;
  if (row >= n) return;  // with all lanes of the warp
  const float* x = vectors + row * d;
  double largest = 0, square = 0;
  for (unsigned block = 0; block * kBlockDimensions < d; ++block) {
    const Pair y = rotated(offset_pair(x, offset, d, block));
    largest = magnitude(y.low) > largest ? magnitude(y.low) : largest;
    largest = magnitude(y.high) > largest ? magnitude(y.high) : largest;
    square += y.low * y.low;
    square += y.high * y.high;
  }
  square = sum_over_lanes(square);
  int exponent = exponent_for(largest_over_lanes(largest));
  std::int8_t* mine = codes + row * depth_of(d);
  Coded kept = code_vector(x, offset, d, exponent, mine);
  if (code_vector(x, offset, d, exponent + 1, nullptr).off_square < kept.off_square)
    kept = code_vector(x, offset, d, ++exponent, mine);
  if (simt::lane() == 0)
    facts[row] = {kept.square, error_from(kept.off_square, square, depth_of(d)), exponent,
                  static_cast<std::uint32_t>(row)};
}

}  // namespace device
}  // namespace resmem
