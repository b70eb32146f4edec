// Runs a block of threads, each of which is a fiber, under the rules of CUDA's execution model.
//
// A kernel that keeps the rules does the same here as on a device. One that breaks them is told so:
//
//   barriers          all threads of a block meet at one barrier, and none has ended before
//   exchanges         all 32 threads of a warp meet at one shuffle, vote or matrix instruction
//   shared memory     holds 0xFF bytes when a block begins; AddressSanitizer guards its ends
//   deferred copies   come at the wait, and until then the place holds 0xFF; none is left unwaited
//   order             is random: of blocks, and of threads between two points where they meet
//   races             are found by ThreadSanitizer, for which only barriers and sync_warp() order
//
// A wait that never ends is a broken rule too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "fiber.h"

namespace resmem {
namespace emulation {

inline constexpr unsigned kWarp = 32;

struct RuleBroken : std::logic_error {
  using std::logic_error::logic_error;
};

// Tells messages where a kernel is.
struct Place {
  const char* what = "";
  int line = 0;
  bool operator==(const Place& other) const {
    return line == other.line && std::string(what) == other.what;
  }
};

struct Index {
  unsigned x = 0, y = 0;
};

class Block {
 public:
  // Makes a block of `threads`, a multiple of 32, with dynamic shared memory. `seed` chooses the
  // order in which threads run.
  Block(unsigned threads, std::size_t shared_bytes, std::uint64_t seed);
  ~Block();

  // Runs the kernel in every thread of the block with this index. Throws RuleBroken, and whatever
  // the kernel throws.
  void run(Index grid, Index index, const std::function<void()>& kernel);

  // Returns the block whose thread is running. What follows is about that thread.
  static Block& current();

  unsigned thread() const { return running_; }
  unsigned lane() const { return running_ % kWarp; }
  unsigned threads() const { return threads_; }
  Index index() const { return index_; }
  Index grid() const { return grid_; }
  void* shared() const { return shared_; }

  // Waits until all threads are here, and tells whether any of them said so.
  bool sync(bool said, Place place);
  // Waits until all lanes of the warp are here, as sync_warp() does: with the memory they wrote.
  void sync_warp(Place place);
  // Waits until all lanes of the warp are here with a value each, and returns the values. They stay
  // as they are until this thread's next exchange.
  template <class T>
  const T* exchange(const T& mine, Place place) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kSlotBytes);
    return static_cast<const T*>(exchange_bytes(&mine, sizeof(T), place));
  }

  // Begins a copy of 16 bytes, of which the first `filled` come from `from` and the rest are 0.
  void copy_later(void* to, const void* from, std::size_t filled, Place place);
  void commit_copies();
  void wait_for_copies(std::size_t most_pending);

 private:
  static constexpr std::size_t kSlotBytes = 32;
  enum class State { ready, at_barrier, at_exchange, ended };
  struct Copy {
    void* to;
    const void* from;
    std::size_t filled;
  };
  struct Thread {
    std::unique_ptr<Fiber> fiber;
    State state = State::ended;
    Place place;
    std::size_t exchanges = 0;              // that this thread took part in
    std::vector<std::vector<Copy>> copies;  // committed groups, and the open one last
  };
  struct Warp {
    unsigned arrived = 0, ended = 0;
    Place place;
    // Values of the even and of the odd exchanges: a thread may be one exchange ahead of another.
    alignas(16) unsigned char values[2][kWarp * kSlotBytes];
  };

  static void body(void* argument);
  void begin();
  void wait(State state, Place place);
  const void* exchange_bytes(const void* mine, std::size_t bytes, Place place);
  void resume(unsigned thread);
  std::string deadlock() const;
  void refuse_unwaited_copies() const;

  const unsigned threads_;
  const std::size_t shared_bytes_;
  unsigned char* const shared_;
  std::mt19937_64 random_;
  std::vector<Thread> all_;
  std::vector<Warp> warps_;
  Index grid_, index_;
  const std::function<void()>* kernel_ = nullptr;
  unsigned running_ = 0, living_ = 0, at_barrier_ = 0;
  bool any_ = false, any_before_ = false;  // what threads said at this barrier, and at the last
  Place barrier_;
  std::exception_ptr error_;
  bool cancelled_ = false;  // a rule was broken: all threads end
};

}  // namespace emulation
}  // namespace resmem
