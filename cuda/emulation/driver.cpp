// Plays devices whose memory is the host's. Whatever a stream is asked for has ended on return.
#include "../driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "../failures.h"
#include "faults.h"

namespace resmem {
namespace emulation {
namespace {

// Tells whether it is the turn of one that fails, and counts.
bool is_turn(unsigned& succeeding, unsigned& failing) {
  if (failing == 0) return false;
  unsigned& left = succeeding > 0 ? succeeding : failing;
  const bool fails = succeeding == 0;
  --left;
  return fails;
}

struct Allocation {
  std::size_t bytes;
  int device;
};

// Holds what is allocated on all devices, by its address.
class Memory {
 public:
  std::size_t in_use() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::size_t bytes = 0;
    for (const auto& [address, each] : allocations_) bytes += each.bytes;
    return bytes;
  }
  std::size_t free_on(int device) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return free_bytes(device);
  }
  // Returns null if the device has no room, or if it is the turn of an allocation that fails.
  void* allocate(int device, std::size_t bytes) {
    constexpr int kPoison = 0xFF;  // NaN as floats, -1 as integers
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > free_bytes(device) || fails_now()) return nullptr;
    auto* address = static_cast<unsigned char*>(std::malloc(bytes));
    if (address == nullptr) return nullptr;
    std::memset(address, kPoison, bytes);
    allocations_[address] = {bytes, device};
    return address;
  }
  void release(int device, void* address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = allocations_.find(static_cast<unsigned char*>(address));
    if (found == allocations_.end() || found->second.device != device) {
      std::fprintf(stderr, "released what is no memory of device %d, or was released before\n",
                   device);
      std::abort();
    }
    allocations_.erase(found);
    std::free(address);
  }
  // Returns the device on which all these bytes belong to one allocation, or -1.
  int device_of(const void* address, std::size_t bytes) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto* first = static_cast<const unsigned char*>(address);
    auto found = allocations_.upper_bound(first);
    if (found == allocations_.begin()) return -1;
    --found;
    return first + bytes <= found->first + found->second.bytes ? found->second.device : -1;
  }

 private:
  std::size_t free_bytes(int device) const {
    std::size_t left = faults().memory;
    for (const auto& [address, each] : allocations_)
      if (each.device == device) left -= each.bytes < left ? each.bytes : left;
    return left;
  }
  static bool fails_now() {
    return is_turn(faults().succeeding_allocations, faults().failing_allocations);
  }

  mutable std::mutex mutex_;
  std::map<const unsigned char*, Allocation> allocations_;
};

Memory& memory() {
  static Memory all;
  return all;
}

}  // namespace

Faults& faults() {
  static Faults now;
  return now;
}

std::size_t bytes_in_use() { return memory().in_use(); }

bool copy_fails() { return is_turn(faults().succeeding_copies, faults().failing_copies); }

void reset_devices() {
  faults() = Faults();
  device::forget_failures();
}

}  // namespace emulation

namespace device {
namespace {

thread_local int current_device = 0;

void require_memory(const void* address, std::size_t bytes, const char* call) {
  refuse_failed(current_device);
  if (bytes > 0 && emulation::memory().device_of(address, bytes) < 0)
    throw DeviceError(std::string(call) + ": these " + std::to_string(bytes) +
                      " bytes must be memory of a device");
}

void refuse_failing_copy(const char* call) {
  if (emulation::faults().during_copy) emulation::faults().during_copy();
  if (emulation::copy_fails()) throw DeviceError(std::string(call) + " failed: a planted fault");
}

}  // namespace

Versions versions() { return {emulation::faults().driver, emulation::faults().runtime}; }

int device_count() {
  const emulation::Faults& now = emulation::faults();
  return now.driver / 1000 < now.runtime / 1000 ? 0 : now.devices;
}

Properties properties(int device) {
  require_ordinal(device, device_count());
  const emulation::Faults& now = emulation::faults();
  return {now.name, now.major, now.minor, now.memory, now.multiprocessors};
}

OnDevice::OnDevice(int device) : before_(current_device) {
  require_ordinal(device, device_count());
  refuse_failed(device);
  current_device = device;
}

OnDevice::~OnDevice() { current_device = before_; }

void throw_failed_launch(const char* kernel, const char* reason) {
  fail(current_device, std::string("kernel ") + kernel + " failed: " + reason);
}

std::size_t free_memory() {
  refuse_failed(current_device);
  return emulation::memory().free_on(current_device);
}

int device_of(const void* address) { return emulation::memory().device_of(address, 1); }

void* allocate(std::size_t bytes) {
  refuse_failed(current_device);
  if (bytes == 0) return nullptr;
  void* address = emulation::memory().allocate(current_device, bytes);
  if (address == nullptr) throw OutOfDeviceMemory(bytes, free_memory(), emulation::faults().memory);
  return address;
}

void release(int device, void* address) noexcept {
  if (address != nullptr) emulation::memory().release(device, address);
}

void* allocate_on(StreamHandle, std::size_t bytes) {
  if (!emulation::faults().memory_pools) throw_without_pools(current_device);
  return allocate(bytes);
}

void release_on(int device, StreamHandle, void* address) noexcept { release(device, address); }

void copy_in(StreamHandle, void* to, const void* host, std::size_t bytes) {
  require_memory(to, bytes, "copy_in");
  refuse_failing_copy("copy_in");
  if (bytes > 0) std::memcpy(to, host, bytes);
}

void copy_out(StreamHandle, void* host, const void* from, std::size_t bytes) {
  require_memory(from, bytes, "copy_out");
  refuse_failing_copy("copy_out");
  if (bytes > 0) std::memcpy(host, from, bytes);
}

void copy_within(StreamHandle, void* to, const void* from, std::size_t bytes) {
  require_memory(to, bytes, "copy_within");
  require_memory(from, bytes, "copy_within");
  refuse_failing_copy("copy_within");
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void fill_zeros(StreamHandle, void* to, std::size_t bytes) {
  require_memory(to, bytes, "fill_zeros");
  if (bytes > 0) std::memset(to, 0, bytes);
}

void wait(StreamHandle) {
  refuse_failed(current_device);
  if (emulation::faults().failing_wait) fail(current_device, "work of the device failed");
}

bool is_done(StreamHandle stream) {
  wait(stream);
  unsigned& left = emulation::faults().busy_polls;
  return left == 0 || --left == 0;
}

void wait_for(StreamHandle, StreamHandle) { refuse_failed(current_device); }

}  // namespace device
}  // namespace resmem
