// Finds the row of an id in one segment whose ids are not consecutive.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <random>

#include "../base/platform.h"
#include "../base/prefetch.h"

namespace resmem {

// A hash table with open addressing, probed in order, from which no id is ever taken out. Ids may
// be any numbers. Of equal ones the last is found: the row that an update wrote hides older ones.
//
// Any number of threads may call everything here at once. The mutex is held for a step of a few
// milliseconds at most, after which the table makes sense, and `poll` is called between two steps,
// while this thread does not hold the mutex. So what `poll` does may wait for whatever it likes,
// throw, or call the table again. A forked child begins with an empty table, as a thread that
// it lacks may have held the mutex.
class IdTable {
 public:
  IdTable() = default;
  IdTable(const IdTable&) = delete;
  IdTable& operator=(const IdTable&) = delete;
  ~IdTable() { delete state_.load(); }

  std::size_t size() {
    State& state = here();
    const std::lock_guard<std::mutex> lock(state.mutex);
    return state.rows;
  }
  std::size_t bytes() {
    State& state = here();
    const std::lock_guard<std::mutex> lock(state.mutex);
    return (state.slots.size + state.old.size) * sizeof(Slot);
  }

  // Adds the rows from size() to n - 1. `ids` are those of all n rows.
  template <class Poll>
  void extend_to(const std::int64_t* ids, std::size_t n, const Poll& poll) {
    while (!here().extended(ids, n)) poll();
  }

  // Sets rows[i] to the row of ids[i], or to -1 if there is none.
  template <class Poll>
  void find(const std::int64_t* ids, std::size_t count, std::int64_t* rows, const Poll& poll) {
    for (std::size_t i = 0; i < count; i += kStep) {
      if (i > 0) poll();
      here().find(ids + i, std::min(kStep, count - i), rows + i);
    }
  }

 private:
  static constexpr std::size_t kStep = std::size_t{1} << 14;  // ids or slots that one step handles
  static constexpr std::size_t kAhead = 12;                   // ids whose slots are on their way

  struct Slot {
    std::int64_t id;
    std::int64_t number;  // of the row, counted from 1; 0 in an empty slot
  };

  // Every bit of an id moves every bit of its place. The seed is random, so that no file can hold
  // ids that collide.
  static std::uint64_t mixed(std::int64_t id) {
    static const std::uint64_t seed =
        std::uint64_t{std::random_device{}()} << 32 | std::random_device{}();
    std::uint64_t x = static_cast<std::uint64_t>(id) ^ seed;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93U;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93U;
    return x ^ x >> 32;
  }

  struct Free {
    void operator()(Slot* slots) const { std::free(slots); }
  };

  // The number of slots is a power of two, or 0. The system hands slots out empty when they are
  // first touched.
  struct Slots {
    std::unique_ptr<Slot[], Free> data;
    std::size_t size = 0;

    static Slots empty(std::size_t size) {
      Slots slots{
          std::unique_ptr<Slot[], Free>(static_cast<Slot*>(std::calloc(size, sizeof(Slot)))), size};
      if (slots.data == nullptr) throw std::bad_alloc();
      return slots;
    }
    bool holds(std::size_t rows) const { return rows <= size / 3 * 2; }

    // Returns the slot of an id, or the empty one that it belongs in. There is an empty one, as at
    // most two thirds are taken.
    Slot& operator[](std::int64_t id) const {
      std::size_t at = mixed(id) & (size - 1);
      while (data[at].number != 0 && data[at].id != id) at = (at + 1) & (size - 1);
      return data[at];
    }
    void prefetch(std::int64_t id) const { prefetch_bytes(&data[mixed(id) & (size - 1)], 1); }
  };

  struct State {
    explicit State(unsigned made_after) : forks(made_after) {}

    const unsigned forks;  // fork_count() of the process that this belongs to
    std::mutex mutex;      // guards all that follows
    Slots slots;
    Slots old;  // these are moving to `slots`, which lacks some of them until `old` is empty
    std::size_t moved = 0;
    std::size_t rows = 0;

    // Takes one step towards n rows. Returns whether there are as many.
    bool extended(const std::int64_t* ids, std::size_t n) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (old.size > 0)
        move();
      else if (rows < n && !slots.holds(n))
        enlarge(n);
      else
        add(ids, std::min(n, rows + kStep));
      return rows >= n;
    }

    void find(const std::int64_t* ids, std::size_t count, std::int64_t* found) {
      const std::lock_guard<std::mutex> lock(mutex);
      for (std::size_t i = 0; i < count; ++i) {
        if (slots.size > 0 && i + kAhead < count) slots.prefetch(ids[i + kAhead]);
        std::int64_t number = slots.size > 0 ? slots[ids[i]].number : 0;
        if (number == 0 && old.size > 0) number = old[ids[i]].number;
        found[i] = number - 1;
      }
    }

   private:
    void enlarge(std::size_t n) {
      std::size_t size = std::max<std::size_t>(16, slots.size);
      while (size / 3 * 2 < n) size *= 2;
      Slots larger = Slots::empty(size);
      old = std::move(slots);
      slots = std::move(larger);
      moved = 0;
    }

    void move() {
      const std::size_t last = std::min(old.size, moved + kStep);
      for (; moved < last; ++moved)
        if (const Slot& slot = old.data[moved]; slot.number != 0) slots[slot.id] = slot;
      if (moved == old.size) old = Slots{};
    }

    void add(const std::int64_t* ids, std::size_t last) {
      for (; rows < last; ++rows) {
        if (rows + kAhead < last) slots.prefetch(ids[rows + kAhead]);
        Slot& slot = slots[ids[rows]];
        slot = {ids[rows], static_cast<std::int64_t>(rows) + 1};
      }
    }
  };

  // Returns the state of this process. The state from before a fork is leaked, as another thread
  // may be about to look at it.
  State& here() {
    const unsigned forks = fork_count();
    State* current = state_.load();
    if (current == nullptr || current->forks != forks) {
      auto fresh = std::make_unique<State>(forks);
      if (state_.compare_exchange_strong(current, fresh.get())) current = fresh.release();
    }
    return *current;
  }

  std::atomic<State*> state_{nullptr};
};

}  // namespace resmem
