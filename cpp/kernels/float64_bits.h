// The bits of a float64, for the vector types' log_parts: x = mantissa * 2^exponent with the
// mantissa in [sqrt(1/2), sqrt(2)), for x >= 2^-1022.
//
// Adding the bits of 1 less those of sqrt(1/2) carries into the exponent where the fraction is
// that of a number below sqrt(1/2); adding the latter to the fraction that is left undoes it.
#pragma once

#include <cstdint>

namespace resmem {
namespace {

constexpr std::int64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
constexpr std::int64_t kLogCarry = 0x3FF0000000000000 - kSqrtHalf;
constexpr std::int64_t kFraction = 0x000FFFFFFFFFFFFF;
// An exponent in the lowest bits of 2^52 is a float64 of that much more.
constexpr std::int64_t kTwo52 = 0x4330000000000000;
constexpr double kLogBias = 0x1p52 + 1023;

}  // namespace
}  // namespace resmem
