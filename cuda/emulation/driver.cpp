// Plays devices whose memory is the host's.
#include "../driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "../failures.h"
#include "faults.h"
#include "streams.h"

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
  bool of_graph;  // was allocated while a stream was captured
};

constexpr int kPoison = 0xFF;  // NaN as floats, -1 as integers

void poison(void* address, std::size_t bytes) { std::memset(address, kPoison, bytes); }

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
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > free_bytes(device) || fails_now()) return nullptr;
    auto* address = static_cast<unsigned char*>(std::malloc(bytes));
    if (address == nullptr) return nullptr;
    poison(address, bytes);
    allocations_[address] = {bytes, device, false};
    return address;
  }
  void give_to_graph(void* address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    allocations_.at(static_cast<unsigned char*>(address)).of_graph = true;
  }
  bool is_of_graph(const void* address) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = allocations_.find(static_cast<const unsigned char*>(address));
    return found != allocations_.end() && found->second.of_graph;
  }
  // Forgets memory, which the caller frees.
  void release(int device, void* address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = allocations_.find(static_cast<unsigned char*>(address));
    if (found == allocations_.end() || found->second.device != device) {
      std::fprintf(stderr, "released what is no memory of device %d, or was released before\n",
                   device);
      std::abort();
    }
    allocations_.erase(found);
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

// Pinned memory of the host.
struct Pinned {
  std::mutex mutex;
  std::map<const char*, std::size_t> bytes;  // by address
};

Pinned& pinned() {
  static Pinned all;
  return all;
}

}  // namespace

Faults& faults() {
  static Faults now;
  return now;
}

std::size_t bytes_in_use() { return memory().in_use(); }

std::size_t pinned_in_use() {
  const std::lock_guard<std::mutex> lock(pinned().mutex);
  std::size_t sum = 0;
  for (const auto& [address, bytes] : pinned().bytes) sum += bytes;
  return sum;
}

void reset_devices() {
  finish_all();
  faults() = Faults();
  device::forget_failures();
}

}  // namespace emulation

namespace device {
namespace {

thread_local int current_device = 0;

// Asks a stream of the current device for work.
void enqueue(StreamHandle stream, emulation::Work work) {
  emulation::enqueue(current_device, stream, std::move(work));
}

void require_memory(const void* address, std::size_t bytes, const char* call) {
  refuse_failed(current_device);
  if (bytes > 0 && emulation::memory().device_of(address, bytes) < 0)
    throw DeviceError(std::string(call) + ": these " + std::to_string(bytes) +
                      " bytes must be memory of a device");
}

void require_working_copy(std::size_t bytes, const char* call) {
  emulation::Faults& now = emulation::faults();
  if (now.during_copy) now.during_copy();
  const bool counted = now.counted_copies.empty() || now.counted_copies == call;
  if (bytes > 0 && counted && emulation::is_turn(now.succeeding_copies, now.failing_copies))
    fail(current_device, "a copy failed: a planted fault");
}

void* allocated(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* address = emulation::memory().allocate(current_device, bytes);
  if (address == nullptr)
    throw OutOfDeviceMemory(bytes, emulation::memory().free_on(current_device),
                            emulation::faults().memory);
  return address;
}

bool is_busy() {
  unsigned& left = emulation::faults().busy_polls;
  return left != 0 && --left != 0;
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
  emulation::refuse_in_capture("cudaMemGetInfo");
  return emulation::memory().free_on(current_device);
}

int device_of(const void* address) { return emulation::memory().device_of(address, 1); }

void* allocate(std::size_t bytes) {
  refuse_failed(current_device);
  emulation::refuse_in_capture("cudaMalloc");
  return allocated(bytes);
}

void release(int device, void* address) noexcept {
  if (address == nullptr) return;
  emulation::finish_all(device);
  emulation::memory().release(device, address);
  std::free(address);
}

void* allocate_on(StreamHandle stream, std::size_t bytes) {
  refuse_failed(current_device);
  if (!emulation::faults().memory_pools) throw_without_pools(current_device);
  void* address = allocated(bytes);
  emulation::Graph* const graph = emulation::captured(current_device, stream);
  if (graph != nullptr && address != nullptr) {
    graph->keep(address);
    emulation::memory().give_to_graph(address);
    graph->note({"allocate_on", [address, bytes] { emulation::poison(address, bytes); }});
  }
  return address;
}

// The device has the memory back for others at once, and its numbers stay until the stream gets
// there. That of a graph goes with the graph.
void release_on(int device, StreamHandle stream, void* address) noexcept {
  if (address == nullptr || emulation::memory().is_of_graph(address)) return;
  emulation::memory().release(device, address);
  emulation::enqueue(device, stream, {"release_on", [address] { std::free(address); }, true});
}

// Pageable memory is copied elsewhere at once.
void copy_in(StreamHandle stream, void* to, const void* host, std::size_t bytes) {
  require_memory(to, bytes, "copy_in");
  emulation::refuse_in_capture("cudaMemcpyAsync");
  require_working_copy(bytes, "copy_in");
  if (bytes == 0) return;
  const auto* first = static_cast<const char*>(host);
  enqueue(stream, {"copy_in", [to, staged = std::vector<char>(first, first + bytes)] {
                     std::memcpy(to, staged.data(), staged.size());
                   }});
}

void copy_from_pinned(StreamHandle stream, void* to, const void* from, std::size_t bytes) {
  require_memory(to, bytes, "copy_from_pinned");
  require_working_copy(bytes, "copy_from_pinned");
  if (bytes > 0)
    enqueue(stream, {"copy_from_pinned", [to, from, bytes] { std::memcpy(to, from, bytes); }});
}

void copy_out(StreamHandle stream, void* host, const void* from, std::size_t bytes) {
  require_memory(from, bytes, "copy_out");
  emulation::refuse_in_capture("cudaMemcpyAsync");
  require_working_copy(bytes, "copy_out");
  if (bytes > 0)
    enqueue(stream, {"copy_out", [host, from, bytes] { std::memcpy(host, from, bytes); }});
}

void copy_within(StreamHandle stream, void* to, const void* from, std::size_t bytes) {
  require_memory(to, bytes, "copy_within");
  require_memory(from, bytes, "copy_within");
  require_working_copy(bytes, "copy_within");
  if (bytes > 0)
    enqueue(stream, {"copy_within", [to, from, bytes] { std::memcpy(to, from, bytes); }});
}

void copy_across(StreamHandle stream, void* to, int to_device, const void* from, int from_device,
                 std::size_t bytes) {
  require_memory(to, bytes, "copy_across");
  require_memory(from, bytes, "copy_across");
  if (bytes > 0 && (emulation::memory().device_of(to, bytes) != to_device ||
                    emulation::memory().device_of(from, bytes) != from_device))
    throw DeviceError("copy_across: these bytes must be memory of the devices that are named");
  require_working_copy(bytes, "copy_across");
  if (bytes > 0)
    enqueue(stream, {"copy_across", [to, from, bytes] { std::memcpy(to, from, bytes); }});
}

void fill_zeros(StreamHandle stream, void* to, std::size_t bytes) {
  require_memory(to, bytes, "fill_zeros");
  if (bytes > 0) enqueue(stream, {"fill_zeros", [to, bytes] { std::memset(to, 0, bytes); }});
}

void wait(StreamHandle stream) {
  refuse_failed(current_device);
  emulation::refuse_in_capture("cudaStreamSynchronize");
  if (emulation::faults().failing_wait) fail(current_device, "work of the device failed");
  emulation::finish(current_device, stream);
}

bool is_done(StreamHandle stream) {
  refuse_failed(current_device);
  emulation::refuse_in_capture("cudaStreamQuery");
  if (emulation::faults().failing_wait) fail(current_device, "work of the device failed");
  if (is_busy()) return false;
  emulation::finish(current_device, stream);
  return true;
}

bool is_captured(StreamHandle stream) {
  return emulation::captured(current_device, stream) != nullptr;
}

void wait_for(StreamHandle stream, StreamHandle other) {
  refuse_failed(current_device);
  if (stream.address == other.address) return;
  const EventHandle reached = emulation::make_event();
  emulation::record(reached, current_device, other);
  emulation::wait_for(current_device, stream, reached);
  emulation::destroy_event(reached);
}

void* allocate_pinned(std::size_t bytes) {
  refuse_failed(current_device);
  emulation::refuse_in_capture("cudaHostAlloc");
  if (bytes > emulation::faults().pinnable) throw_without_pinned(bytes);
  auto* address = static_cast<char*>(std::malloc(bytes));
  if (address == nullptr) throw_without_pinned(bytes);
  emulation::poison(address, bytes);
  const std::lock_guard<std::mutex> lock(emulation::pinned().mutex);
  emulation::pinned().bytes[address] = bytes;
  return address;
}

void release_pinned(void* address) noexcept {
  if (address == nullptr) return;
  emulation::finish_all();
  const std::lock_guard<std::mutex> lock(emulation::pinned().mutex);
  emulation::pinned().bytes.erase(static_cast<char*>(address));
  std::free(address);
}

bool is_pinned(const void* address) {
  const auto* first = static_cast<const char*>(address);
  const std::lock_guard<std::mutex> lock(emulation::pinned().mutex);
  auto found = emulation::pinned().bytes.upper_bound(first);
  if (found == emulation::pinned().bytes.begin()) return false;
  --found;
  return first < found->first + found->second;
}

StreamHandle make_stream() {
  refuse_failed(current_device);
  return emulation::make_stream(current_device);
}
void destroy_stream(int device, StreamHandle stream) noexcept {
  emulation::destroy_stream(device, stream);
}

EventHandle make_event() {
  refuse_failed(current_device);
  return emulation::make_event();
}
void destroy_event(EventHandle event) noexcept { emulation::destroy_event(event); }
void record(EventHandle event, StreamHandle stream) {
  refuse_failed(current_device);
  emulation::record(event, current_device, stream);
}
void wait_for(StreamHandle stream, EventHandle event) {
  refuse_failed(current_device);
  emulation::wait_for(current_device, stream, event);
}
bool is_done(EventHandle event) {
  refuse_failed(current_device);
  emulation::refuse_in_capture("cudaEventQuery");
  if (is_busy()) return false;
  emulation::finish(event);
  return true;
}

}  // namespace device

namespace simt {

void enqueue(device::StreamHandle stream, const char* kernel, std::function<void()> run) {
  emulation::enqueue(device::current_device, stream, {kernel, std::move(run)});
}

}  // namespace simt
}  // namespace resmem
