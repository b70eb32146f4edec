// What is asked of a device: its properties, memory, copies and streams. driver.cu asks CUDA for
// them, and emulation/driver.cpp plays a device whose memory is the host's. No CUDA type leaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace resmem {
namespace device {

// Is thrown where a device does not do what it is asked. The message says what to do about it.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct OutOfDeviceMemory : DeviceError {
  OutOfDeviceMemory(std::size_t asked_bytes, std::size_t free_bytes, std::size_t total_bytes);
  std::size_t asked, free, total;
};

// Versions count 1000 for a major and 10 for a minor number. Without a driver its version is 0.
struct Versions {
  int driver, runtime;
};
Versions versions();

// Returns 0 if there is no driver, or if the driver is too old for the runtime.
int device_count();

struct Properties {
  std::string name;
  int major, minor;  // compute capability
  std::size_t memory;
  unsigned multiprocessors;
};
Properties properties(int device);

// Is a stream of CUDA, as its address. 0 is the legacy default stream.
struct StreamHandle {
  std::uintptr_t address = 0;
};

// Makes a device the current one of this thread, and, when it goes, the one that was it before.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
};

// Throws a DeviceError that names the kernel. The current device is refused from then on.
[[noreturn]] void throw_failed_launch(const char* kernel, const char* reason);

// What follows is about the current device, but that memory is given back to its own: whoever does
// so may have any current device. It throws DeviceError, OutOfDeviceMemory included.
std::size_t free_memory();
// Return the number of the device whose memory this is, or -1 for memory of the host.
int device_of(const void* address);

// Memory that is kept. To give it back waits for all work of the device.
void* allocate(std::size_t bytes);
void release(int device, void* address) noexcept;
// Memory for what a stream does from here on, until it gets there when it is given back.
void* allocate_on(StreamHandle stream, std::size_t bytes);
void release_on(int device, StreamHandle stream, void* address) noexcept;

// Host memory may be changed or freed on return, but what copy_out() writes there comes only with
// wait().
void copy_in(StreamHandle stream, void* to, const void* host, std::size_t bytes);
// Host memory that is pinned stays as it is until the stream got there.
void copy_from_pinned(StreamHandle stream, void* to, const void* pinned, std::size_t bytes);
void copy_out(StreamHandle stream, void* host, const void* from, std::size_t bytes);
void copy_within(StreamHandle stream, void* to, const void* from, std::size_t bytes);
void fill_zeros(StreamHandle stream, void* to, std::size_t bytes);
// Copies between devices, in the order of a stream of the current one.
void copy_across(StreamHandle stream, void* to, int to_device, const void* from, int from_device,
                 std::size_t bytes);
// Waits until the stream is done, and throws what any of its kernels failed with.
void wait(StreamHandle stream);
// Tells whether the stream is done, and throws the same.
bool is_done(StreamHandle stream);
// Tells whether the stream is captured into a graph, and does nothing of what it is asked for.
bool is_captured(StreamHandle stream);
// Makes what `stream` does from here on wait for what `other` has been asked up to now.
void wait_for(StreamHandle stream, StreamHandle other);

// Memory of the host that devices copy from while the host does something else. Throws DeviceError.
void* allocate_pinned(std::size_t bytes);
// Waits for what devices copy from it.
void release_pinned(void* address) noexcept;
bool is_pinned(const void* address);

// A stream that waits for no other one unless it is told to.
StreamHandle make_stream();
void destroy_stream(int device, StreamHandle stream) noexcept;

// What a stream has been asked up to a moment, as the address of an event of CUDA.
struct EventHandle {
  std::uintptr_t address = 0;
};
EventHandle make_event();
void destroy_event(EventHandle event) noexcept;
void record(EventHandle event, StreamHandle stream);
// Makes what `stream` does from here on wait for an event of any device. One that was never
// recorded is waited for by nobody.
void wait_for(StreamHandle stream, EventHandle event);
bool is_done(EventHandle event);

}  // namespace device
}  // namespace resmem
