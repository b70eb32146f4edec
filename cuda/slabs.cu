#include "slabs.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "../cpp/base/threads.h"

namespace resmem {
namespace device {

Lane::Lane(int on_device, std::size_t most_bytes)
    : device(on_device), bytes(most_bytes), copies(on_device) {
  for (auto& slot : slots) slot = std::make_unique<Slot>(most_bytes);
}

std::unique_ptr<Lane> Lanes::take(int device, std::size_t bytes) {
  std::vector<std::unique_ptr<Lane>> small;  // which go once others may take theirs
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto each = idle_.begin(); each != idle_.end();) {
      if ((*each)->device != device) {
        ++each;
        continue;
      }
      std::unique_ptr<Lane> lane = std::move(*each);
      each = idle_.erase(each);
      if (lane->bytes >= bytes) return lane;
      small.push_back(std::move(lane));
    }
  }
  small.clear();
  return std::make_unique<Lane>(device, bytes);
}

void Lanes::give_back(std::unique_ptr<Lane> lane) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(lane));
}

std::size_t Lanes::pinned_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t sum = 0;
  for (const auto& lane : idle_) sum += kSlabs * lane->bytes;
  return sum;
}

SlabCopies::SlabCopies(int device, StreamHandle searching, Lanes& lanes, std::size_t most_bytes,
                       const Poll& poll)
    : searching_(searching), lanes_(lanes), poll_(poll) {
  for (Memory& slab : slabs_) slab = Memory({device, searching}, most_bytes);
  lane_ = lanes_.take(device, most_bytes);
  // Memory of the searching stream is there for another one from here on.
  for (const auto& slot : lane_->slots) record(slot->searched.handle(), searching_);
}

SlabCopies::~SlabCopies() {
  if (lane_ == nullptr) return;
  try {
    wait(lane_->copies.handle());
  } catch (const DeviceError&) {  // of which the search tells
  }
}

void SlabCopies::begin(const void* host, std::size_t bytes) {
  const unsigned number = begun_++ % kSlabs;
  const Lane::Slot& slot = *lane_->slots[number];
  const StreamHandle copies = lane_->copies.handle();
  const bool pinned = is_pinned(host);
  if (!pinned) {
    wait_polling([&] { return is_done(slot.copied.handle()); }, poll_);
    fill(slot.staging.bytes(), host, bytes);
  }
  wait_for(copies, slot.searched.handle());
  copy_from_pinned(copies, slabs_[number].of<void>(), pinned ? host : slot.staging.bytes(), bytes);
  record(slot.copied.handle(), copies);
}

const void* SlabCopies::arrived() {
  const unsigned number = searched_ % kSlabs;
  wait_for(searching_, lane_->slots[number]->copied.handle());
  return slabs_[number].of<void>();
}

void SlabCopies::searched() {
  record(lane_->slots[searched_++ % kSlabs]->searched.handle(), searching_);
}

void SlabCopies::finish() {
  for (const auto& slot : lane_->slots)
    wait_polling([&] { return is_done(slot->copied.handle()); }, poll_);
  lanes_.give_back(std::move(lane_));
}

// One thread reads about as fast as a fourth of what a link of 50 GB/s takes.
void SlabCopies::fill(char* staging, const void* host, std::size_t bytes) const {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  Interrupt none;
  parallel_for((bytes + kPiece - 1) / kPiece, default_threads(), none,
               [&](std::size_t piece, bool) {
                 const std::size_t first = piece * kPiece;
                 std::memcpy(staging + first, static_cast<const char*>(host) + first,
                             std::min(kPiece, bytes - first));
               });
}

void wait_polling(const std::function<bool()>& done, const std::function<void()>& poll) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kBetweenPolls = std::chrono::milliseconds(20);
  auto next = Clock::now();
  while (!done()) {
    if (Clock::now() >= next) {
      poll();
      next = Clock::now() + kBetweenPolls;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  poll();
}

}  // namespace device
}  // namespace resmem
