// From an id to its row, in one segment whose ids are not consecutive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "prefetch.h"

namespace resmem {

// Open addressing, probed in order; no id is ever taken out. Ids may be any numbers: of equal ones
// the first is found.
class IdTable {
 public:
  std::size_t size() const { return static_cast<std::size_t>(rows_); }
  std::size_t bytes() const { return slots_.size() * sizeof(Slot); }

  // Rows numbered on from size(). `poll` is called now and then and may throw; the table is
  // then as it was.
  template <class Poll>
  void extend(const std::int64_t* ids, std::size_t count, const Poll& poll) {
    reserve(size() + count, poll);
    try {
      for (std::size_t i = 0; i < count; ++i) {
        if (i % kPolled == 0) poll();
        if (i + kAhead < count) prefetch(ids[i + kAhead]);
        Slot& slot = slots_[place(slots_, ids[i])];
        if (slot.row < 0) slot = {ids[i], rows_ + static_cast<std::int64_t>(i)};
      }
    } catch (...) {  // ids that came last are in nobody's way
      for (Slot& slot : slots_)
        if (slot.row >= rows_) slot = Slot{};
      throw;
    }
    rows_ += static_cast<std::int64_t>(count);
  }

  // rows[i]: of ids[i], or -1.
  template <class Poll>
  void find(const std::int64_t* ids, std::size_t count, std::int64_t* rows,
            const Poll& poll) const {
    for (std::size_t i = 0; i < count; ++i) {
      if (i % kPolled == 0) poll();
      if (i + kAhead < count) prefetch(ids[i + kAhead]);
      rows[i] = slots_.empty() ? -1 : slots_[place(slots_, ids[i])].row;
    }
  }

 private:
  struct Slot {
    std::int64_t id = 0;
    std::int64_t row = -1;  // none
  };
  static constexpr std::size_t kPolled = std::size_t{1} << 16;
  static constexpr std::size_t kAhead = 12;  // ids whose slots are on their way

  // Every bit of an id moves every bit of its place; the seed is no file's to know.
  static std::uint64_t mixed(std::int64_t id) {
    static const std::uint64_t seed =
        std::uint64_t{std::random_device{}()} << 32 | std::random_device{}();
    std::uint64_t x = static_cast<std::uint64_t>(id) ^ seed;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93U;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93U;
    return x ^ x >> 32;
  }

  void prefetch(std::int64_t id) const {
    if (!slots_.empty()) prefetch_bytes(&slots_[mixed(id) & (slots_.size() - 1)], 1);
  }

  // Where an id is, or the empty slot that it belongs in: at most two thirds are taken.
  static std::size_t place(const std::vector<Slot>& slots, std::int64_t id) {
    std::size_t at = mixed(id) & (slots.size() - 1);
    while (slots[at].row >= 0 && slots[at].id != id) at = (at + 1) & (slots.size() - 1);
    return at;
  }

  template <class Poll>
  void reserve(std::size_t count, const Poll& poll) {
    std::size_t size = slots_.empty() ? 16 : slots_.size();
    while (size / 3 * 2 < count) size *= 2;
    if (size == slots_.size()) return;
    std::vector<Slot> larger(size);
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (i % kPolled == 0) poll();
      if (slots_[i].row >= 0) larger[place(larger, slots_[i].id)] = slots_[i];
    }
    slots_.swap(larger);
  }

  std::vector<Slot> slots_;  // a power of two of them, or none
  std::int64_t rows_ = 0;
};

}  // namespace resmem
