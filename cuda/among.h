// The rows that the queries of a call may see alone, on the device. Few of them are listed, and
// compared one by one; otherwise all rows are filtered, and each has a bit.
#pragma once

#include <algorithm>

#include "../cpp/rows/among_rows.h"
#include "memory.h"

namespace resmem {
namespace device {

inline constexpr std::size_t kMostListed = 1024;  // rows, of which a filter could save little
// A multiplication in double precision costs about as much as that of so many pairs of bytes.
inline constexpr std::size_t kListedShare = 128;

// Returns how many rows are listed at most, of all that are searched.
inline std::size_t most_listed(std::size_t rows) {
  return std::max(kMostListed, rows / kListedShare);
}

// Some positions among all rows.
struct Positions {
  std::size_t begin, end;
};

// Rows that are listed, by their positions among all.
struct ListedRows {
  const std::int64_t* positions = nullptr;  // (count,) on the device, ascending
  std::size_t count = 0;
};

class AmongOnDevice {
 public:
  // Brings which of some rows are seen, if not all are. At most `most` are listed, of all rows.
  AmongOnDevice(const AmongRows& among, Positions rows, std::size_t most,
                const MemorySource& source) {
    if (among.all()) return;
    const AmongRows here = among.positions != nullptr ? given_in(among, rows) : among;
    listed_ = here.count <= most;
    if (listed_)
      bring_positions(here, rows, source);
    else
      bring_bits(here, rows, source);
  }

  bool listed() const { return listed_; }
  // Returns those of the listed rows whose positions are the `n` from `first` on.
  ListedRows of(std::size_t first, std::size_t n) const {
    if (!listed_) return {};
    const auto begin = place_in(positions_, first), end = place_in(positions_, first + n);
    return {memory_.of<std::int64_t>() + (begin - positions_.begin()),
            static_cast<std::size_t>(end - begin)};
  }
  // Returns the bits of the rows from a position on; none where rows are listed, or all are seen.
  RowMask mask(std::size_t first) const {
    return listed_ ? RowMask{} : RowMask{memory_.of<std::uint8_t>(), first - first_bit_};
  }

 private:
  // Returns those of the positions that are of some rows.
  static AmongRows given_in(const AmongRows& among, Positions rows) {
    const auto at = [&](std::size_t position) {
      return std::lower_bound(among.positions, among.positions + among.count,
                              static_cast<std::int64_t>(position));
    };
    AmongRows here;
    here.positions = at(rows.begin);
    here.count = static_cast<std::size_t>(at(rows.end) - here.positions);
    return here;
  }
  static std::vector<std::int64_t>::const_iterator place_in(
      const std::vector<std::int64_t>& positions, std::size_t position) {
    return std::lower_bound(positions.begin(), positions.end(),
                            static_cast<std::int64_t>(position));
  }
  void bring_positions(const AmongRows& among, Positions rows, const MemorySource& source) {
    std::vector<std::int64_t> all = positions_of(among);
    if (among.bits == nullptr) all.assign(among.positions, among.positions + among.count);
    positions_.assign(place_in(all, rows.begin), place_in(all, rows.end));
    bring(source, positions_.data(), positions_.size() * sizeof(std::int64_t));
  }
  void bring_bits(const AmongRows& among, Positions rows, const MemorySource& source) {
    const std::vector<std::uint8_t> made = bits_of(among, rows.end);
    const std::uint8_t* bits = among.bits != nullptr ? among.bits : made.data();
    const std::size_t first_byte = rows.begin / 8;
    first_bit_ = 8 * first_byte;
    bring(source, bits + first_byte, (rows.end + 7) / 8 - first_byte);
  }
  void bring(const MemorySource& source, const void* from, std::size_t bytes) {
    memory_ = Memory(source, bytes);
    if (bytes > 0) copy_in(*source.stream, memory_.of<void>(), from, bytes);
  }

  bool listed_ = false;
  std::size_t first_bit_ = 0;  // the position of the first bit that was brought
  std::vector<std::int64_t> positions_;
  Memory memory_;
};

}  // namespace device
}  // namespace resmem
