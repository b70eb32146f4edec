// Rows and queries as signed bytes (README.md, "Codes"): what is stored of each, and the formulas
// that the host and the device share.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simt.h"

namespace resmem {
namespace device {

// Dimensions are rotated in blocks of so many; the last block is filled with zeros.
inline constexpr unsigned kBlockDimensions = 64;
inline constexpr unsigned kLevels = 6;  // of the butterfly: 2^6 = 64
inline constexpr int kLargestCode = 127;

// Products of codes are added in 32 bits: 127^2 * 2^16 < 2^30.
inline constexpr std::size_t kMostDimensions = std::size_t{1} << 16;

// What is kept of a row or a query beside its `depth` codes.
struct CodeFacts {
  std::int32_t square;    // sum of the squares of the codes
  float error;            // |code / 2^exponent - y| is at most this, with y exact
  std::int32_t exponent;  // codes are about 2^exponent times y
  std::uint32_t row;      // number in the segment, or of the query
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

// Returns the largest exponent with largest * 2^exponent <= 127, and 0 for largest = 0. `largest`
// is not negative, and normal or 0.
RESMEM_HOST_DEVICE int exponent_for(double largest) {
  if (largest == 0) return 0;
  std::uint64_t bits;
  memcpy(&bits, &largest, sizeof bits);
  const int binade = static_cast<int>(bits >> 52) - 1023;  // 2^binade <= largest < 2^(binade + 1)
  constexpr double kLargestMantissa = kLargestCode / 64.0;
  return largest * power_of_two(-binade) <= kLargestMantissa ? 6 - binade : 5 - binade;
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

// Returns the bits of the least float32 that is no smaller than x, which is not negative. Such bits
// are in the order of the numbers.
RESMEM_HOST_DEVICE std::uint32_t bits_rounded_up(double x) {
  const float rounded = static_cast<float>(x);
  std::uint32_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  return static_cast<double>(rounded) < x ? bits + 1 : bits;
}

RESMEM_HOST_DEVICE double number_of(std::uint32_t bits) {
  float number;
  memcpy(&number, &bits, sizeof number);
  return static_cast<double>(number);
}

// Returns an upper end of the error, from the computed square of |code / scale - y| and the
// computed square of |y| (README.md, equation 2).
RESMEM_HOST_DEVICE float error_from(double off_square, double square, unsigned depth) {
  constexpr double kUnit = 0x1p-53;
  const double widened = 1 + (depth + 16.0) * kUnit;
  const double error = (sqrt(off_square) + 8 * kUnit * sqrt(square)) * widened;
  return static_cast<float>(number_of(bits_rounded_up(error)));
}

}  // namespace device
}  // namespace resmem
