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

// Rows that are listed, by their positions among all.
struct ListedRows {
  const std::int64_t* positions = nullptr;  // (count,) on the device, ascending
  std::size_t count = 0;
};

class AmongOnDevice {
 public:
  // Brings the only ones of all `rows` that are seen, if not all are. At most `most` are listed.
  AmongOnDevice(const AmongRows& among, std::size_t rows, std::size_t most,
                const MemorySource& source) {
    if (among.all()) return;
    listed_ = among.count <= most;
    if (listed_) {
      positions_ = positions_of(among);
      if (among.bits == nullptr) positions_.assign(among.positions, among.positions + among.count);
      bring(source, positions_.data(), positions_.size() * sizeof(std::int64_t));
    } else {
      const std::vector<std::uint8_t> bits = bits_of(among, rows);
      bring(source, among.bits != nullptr ? among.bits : bits.data(), (rows + 7) / 8);
    }
  }

  bool listed() const { return listed_; }
  // Returns those of the listed rows whose positions are the `n` from `first` on.
  ListedRows of(std::size_t first, std::size_t n) const {
    const auto at = [&](std::size_t position) {
      return std::lower_bound(positions_.begin(), positions_.end(),
                              static_cast<std::int64_t>(position)) -
             positions_.begin();
    };
    const auto begin = at(first), end = at(first + n);
    return {memory_.of<std::int64_t>() + begin, static_cast<std::size_t>(end - begin)};
  }
  // Returns the bits of the rows from a position on; none where rows are listed, or all are seen.
  RowMask mask(std::size_t first) const {
    return listed_ ? RowMask{} : RowMask{memory_.of<std::uint8_t>(), first};
  }

 private:
  void bring(const MemorySource& source, const void* from, std::size_t bytes) {
    memory_ = Memory(source, bytes);
    if (bytes > 0) copy_in(*source.stream, memory_.of<void>(), from, bytes);
  }

  bool listed_ = false;
  std::vector<std::int64_t> positions_;
  Memory memory_;
};

}  // namespace device
}  // namespace resmem
