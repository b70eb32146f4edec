// Rows that do not fit a device come to it slab by slab while others are searched. There are two
// of everything, so that three things happen at once:
//
//   the host's threads    | fill 1 | fill 2 | fill 3 | fill 4 |
//   the stream of copies           | copy 1 | copy 2 | copy 3 | copy 4 |
//   the caller's stream                     |search 1|search 2|search 3|search 4|
//
// A staging buffer is filled again once its copy has ended, for which the host waits; a slab is
// written again once its search has ended, for which the stream of copies waits; and a search waits
// for the copy of its slab.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"

namespace resmem {
namespace device {

inline constexpr unsigned kSlabs = 2;

// What brings slabs of at most so many bytes to a device, for one search at a time.
struct Lane {
  Lane(int on_device, std::size_t most_bytes);

  struct Slot {
    explicit Slot(std::size_t bytes) : staging(bytes) {}
    PinnedMemory staging;
    Event copied, searched;
  };
  const int device;
  const std::size_t bytes;
  Stream copies;
  std::unique_ptr<Slot> slots[kSlabs];
};

// Lanes that are kept, as it takes long to pin memory. Any number of threads may call this.
class Lanes {
 public:
  // Returns one that no search uses, or a new one, for which smaller ones go. Throws DeviceError.
  std::unique_ptr<Lane> take(int device, std::size_t bytes);
  void give_back(std::unique_ptr<Lane> lane);
  std::size_t pinned_bytes() const;  // of those that no search uses

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::unique_ptr<Lane>> idle_;
};

// Brings slabs to the current device, one after the other, to be searched in the order of a stream.
// `poll` is called while the host waits; what it throws comes out.
class SlabCopies {
 public:
  using Poll = std::function<void()>;
  SlabCopies(int device, StreamHandle searching, Lanes& lanes, std::size_t most_bytes,
             const Poll& poll);
  // Waits until no copy is on its way.
  ~SlabCopies();
  SlabCopies(const SlabCopies&) = delete;
  SlabCopies& operator=(const SlabCopies&) = delete;

  // Begins to bring the next slab, of which the host has the bytes. At most kSlabs are begun and
  // not yet searched.
  void begin(const void* host, std::size_t bytes);
  // Returns where the next slab lies for all that its stream is asked for from here on.
  const void* arrived();
  // Says that the stream has been asked for everything that reads this slab.
  void searched();
  // Waits until all slabs have come, and keeps the lane for others.
  void finish();

 private:
  void fill(char* staging, const void* host, std::size_t bytes) const;

  const StreamHandle searching_;
  Lanes& lanes_;
  const Poll& poll_;
  Memory slabs_[kSlabs];
  std::unique_ptr<Lane> lane_;  // goes before the slabs do, and waits for its copies
  std::size_t begun_ = 0, searched_ = 0;
};

// Waits until done() is true. Nothing of the caller's is written before, so that `poll` may throw
// meanwhile: what the device still uses goes back to its stream.
void wait_polling(const std::function<bool()>& done, const std::function<void()>& poll);

}  // namespace device
}  // namespace resmem
