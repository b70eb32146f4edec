// Some of all rows, as bits or by their positions, which are numbered through all segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../base/host_device.h"

namespace resmem {

// Some rows of a segment: row r is one of them if bit first + r is set, or if there are no bits.
struct RowMask {
  const std::uint8_t* bits = nullptr;  // the lowest bit of a byte comes first
  std::size_t first = 0;

  RESMEM_HOST_DEVICE bool holds(std::size_t row) const {
    const std::size_t at = first + row;
    return bits == nullptr || (bits[at / 8] >> (at % 8) & 1) != 0;
  }
};

// The only rows that queries see, given by their positions or as bits of all rows. If neither is
// there, these are all rows.
struct AmongRows {
  const std::int64_t* positions = nullptr;  // (count,), ascending
  const std::uint8_t* bits = nullptr;       // as in RowMask, numbered through all segments
  std::size_t count = 0;

  bool all() const { return positions == nullptr && bits == nullptr; }
};

// Returns the positions of rows that are given as bits; none for others.
inline std::vector<std::int64_t> positions_of(const AmongRows& among) {
  std::vector<std::int64_t> positions;
  if (among.bits == nullptr) return positions;
  positions.reserve(among.count);
  for (std::size_t byte = 0; positions.size() < among.count; ++byte)
    for (unsigned bit = 0; bit < 8; ++bit)
      if ((among.bits[byte] >> bit & 1) != 0)
        positions.push_back(static_cast<std::int64_t>(8 * byte + bit));
  return positions;
}

// Returns bits of all rows, of which there are `rows`, for those that are given by their positions;
// none for others.
inline std::vector<std::uint8_t> bits_of(const AmongRows& among, std::size_t rows) {
  std::vector<std::uint8_t> bits;
  if (among.positions == nullptr) return bits;
  bits.resize(rows / 8 + 1);
  for (std::size_t i = 0; i < among.count; ++i) {
    const auto position = static_cast<std::size_t>(among.positions[i]);
    bits[position / 8] = static_cast<std::uint8_t>(bits[position / 8] | 1U << (position % 8));
  }
  return bits;
}

}  // namespace resmem
