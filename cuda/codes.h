// Rows and queries as signed bytes (README.md, "Codes"): what is stored of each, and the formulas
// that the host and the device share.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../cpp/base/rounding.h"
#include "points.h"
#include "simt.h"

namespace resmem {
namespace device {

// Dimensions are rotated in blocks of so many; the last block is filled with zeros.
inline constexpr unsigned kBlockDimensions = 64;
inline constexpr int kLargestCode = 127;

// Products of codes are added in 32 bits: 127^2 * 2^16 < 2^30.
inline constexpr std::size_t kMostDimensions = std::size_t{1} << 16;

// Exponents lie within this, so that powers of two of sums and of differences of some are normal.
inline constexpr int kLargestExponent = 400;

// What is kept of a row or a query beside its `depth` codes.
struct CodeFacts {
  std::int32_t square;    // sum of the squares of the codes
  float error;            // |code / 2^exponent - y| is at most this, with y exact; may be infinite
  std::int32_t exponent;  // codes are about 2^exponent times y
  std::uint32_t vector;   // number of the row or the query
};

RESMEM_HOST_DEVICE unsigned depth_of(unsigned d) {
  return (d + kBlockDimensions - 1) / kBlockDimensions * kBlockDimensions;
}

// Tells whether dimension i changes its sign before the rotation: a bit of a mixed i, so that rows
// whose numbers follow a pattern are spread like others (splitmix64, Steele et al. 2014).
RESMEM_HOST_DEVICE bool turned(std::uint64_t i) {
  std::uint64_t mixed = i + 0x9E3779B97F4A7C15U;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBU;
  return ((mixed ^ (mixed >> 31)) & 1) != 0;
}

// Returns 2^exponent, for -1022 <= exponent <= 1023.
RESMEM_HOST_DEVICE double power_of_two(int exponent) {
  const std::uint64_t bits = static_cast<std::uint64_t>(exponent + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

// Returns the largest exponent with largest * 2^exponent <= 127 that leaves room for a larger one,
// and 0 for largest = 0. `largest` is not negative.
RESMEM_HOST_DEVICE int exponent_for(double largest) {
  if (largest == 0) return 0;
  if (largest < power_of_two(-kLargestExponent)) return kLargestExponent - 1;
  std::uint64_t bits;
  memcpy(&bits, &largest, sizeof bits);
  const int binade = static_cast<int>(bits >> 52) - 1023;  // 2^binade <= largest < 2^(binade + 1)
  constexpr double kLargestMantissa = kLargestCode / 64.0;
  const int exponent =
      largest * power_of_two(-binade) <= kLargestMantissa ? 6 - binade : 5 - binade;
  return exponent < -kLargestExponent   ? -kLargestExponent
         : exponent >= kLargestExponent ? kLargestExponent - 1
                                        : exponent;
}

// Returns the code of a coordinate: the nearest integer, halves to even, within -127 to 127.
RESMEM_HOST_DEVICE int code_of(double y, double scale) {
  constexpr double kShift =
      0x1.8p52;  // adding it rounds to an integer; what is added is below 2^51
  double scaled = y * scale;
  scaled = scaled < -kLargestCode ? -kLargestCode : scaled;
  scaled = scaled > kLargestCode ? kLargestCode : scaled;
  return static_cast<int>((scaled + kShift) - kShift);
}

// Returns the bits of a float32 that is not negative. Such bits are in the order of the numbers.
RESMEM_HOST_DEVICE std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

RESMEM_HOST_DEVICE float number_of(std::uint32_t bits) {
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

// Returns the float64 of these bits.
RESMEM_HOST_DEVICE double number_of_bits(std::uint64_t bits) {
  double number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

// Returns a length that no row exceeds, for inner products; `largest_square` holds the bits of the
// largest square of a row.
RESMEM_HOST_DEVICE double longest_of(KeyKind kind, const std::uint64_t* largest_square,
                                     unsigned d) {
  if (kind != KeyKind::inner_product) return 0;
  return longest_from(number_of_bits(*largest_square), d);
}

// Returns an upper end of the error, from the computed square of |code / scale - y|, the computed
// square of |y| and how far the point itself may be off (README.md, equation 2).
RESMEM_HOST_DEVICE float error_from(double off_square, double square, double off, unsigned depth) {
  const double widened = 1 + (depth + 16.0) * kV;
  return round_up((sqrt(off_square) + 8 * kV * sqrt(square) + off) * widened);
}

}  // namespace device
}  // namespace resmem
