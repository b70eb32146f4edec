// Owns memory, streams and events of a device.
#pragma once

#include <optional>
#include <utility>

#include "driver.h"

namespace resmem {
namespace device {

// Where memory comes from: kept memory, or that of a stream, which gets it back when its work until
// then is done.
struct MemorySource {
  int device = 0;
  std::optional<StreamHandle> stream;
};

class Memory {
 public:
  Memory() = default;
  Memory(const MemorySource& source, std::size_t bytes) : source_(source), bytes_(bytes) {
    if (bytes == 0) return;
    const OnDevice here(source.device);
    address_ = source.stream ? allocate_on(*source.stream, bytes) : allocate(bytes);
  }
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(source_, other.source_);
    std::swap(bytes_, other.bytes_);
    std::swap(address_, other.address_);
    return *this;
  }
  ~Memory() {
    if (address_ == nullptr) return;
    if (source_.stream)
      release_on(source_.device, *source_.stream, address_);
    else
      release(source_.device, address_);
  }

  template <class T>
  T* of() const {
    return static_cast<T*>(address_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  MemorySource source_;
  std::size_t bytes_ = 0;
  void* address_ = nullptr;
};

// Owns pinned memory of the host.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::size_t bytes) : address_(allocate_pinned(bytes)) {}
  ~PinnedMemory() { release_pinned(address_); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  char* bytes() const { return static_cast<char*>(address_); }

 private:
  void* const address_;
};

// Owns a stream of a device.
class Stream {
 public:
  explicit Stream(int device) : device_(device), handle_(made_on(device)) {}
  ~Stream() { destroy_stream(device_, handle_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  StreamHandle handle() const { return handle_; }

 private:
  static StreamHandle made_on(int device) {
    const OnDevice here(device);
    return make_stream();
  }
  const int device_;
  const StreamHandle handle_;
};

// Owns an event of the device that is the current one.
class Event {
 public:
  Event() : handle_(make_event()) {}
  ~Event() { destroy_event(handle_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  EventHandle handle() const { return handle_; }

 private:
  const EventHandle handle_;
};

// Cuts memory into arrays. Without memory it only counts how much they take.
class Arrays {
 public:
  explicit Arrays(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* next(std::size_t count) {
    char* const here = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(here);
  }
  std::size_t used() const { return used_; }

 private:
  static constexpr std::size_t kAlignment = 256;  // bytes, as cudaMalloc() aligns
  char* memory_;
  std::size_t used_ = 0;
};

}  // namespace device
}  // namespace resmem
