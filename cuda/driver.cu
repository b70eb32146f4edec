// Asks the runtime of CUDA. Every error becomes words, and is taken out of the runtime, which would
// hand it to the next one who asks.
#include <cuda_runtime.h>

#include <cstring>

#include "driver.h"
#include "failures.h"

namespace resmem {
namespace device {
namespace {

// Tells whether an error leaves the device's context unusable, as CUDA's documentation says of
// each.
bool ends_context(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

const char* advice(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver:
      return "update NVIDIA's driver, or use device=\"cpu\"";
    case cudaErrorInitializationError:
      return "CUDA does not work in a process that was forked from one that uses it: start "
             "processes by multiprocessing.get_context(\"spawn\")";
    case cudaErrorDevicesUnavailable:
      return "another process has the device for itself: end that one, or use device=\"cpu\"";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureIsolation:
      return "end the capture; to capture a search, search once before, so that the rows are "
             "there, with all arrays on the device, and give workspace_bytes=";
    default:
      return "use device=\"cpu\" if it comes again";
  }
}

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  const std::string what = std::string(call) + " failed: " + cudaGetErrorString(error) + " (" +
                           cudaGetErrorName(error) + ")";
  int device = 0;
  if (ends_context(error) && cudaGetDevice(&device) == cudaSuccess)
    fail(device, what + ", which CUDA_LAUNCH_BLOCKING=1 in the environment traces to a kernel");
  throw DeviceError(what + "; " + advice(error));
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

void refuse_if_failed() { refuse_failed(current_device()); }

cudaStream_t of(StreamHandle stream) { return reinterpret_cast<cudaStream_t>(stream.address); }
cudaEvent_t of(EventHandle event) { return reinterpret_cast<cudaEvent_t>(event.address); }

// Throws OutOfDeviceMemory if that is what `error` says.
void check_allocation(cudaError_t error, std::size_t bytes, const char* call) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    throw OutOfDeviceMemory(bytes, free, total);
  }
  check(error, call);
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

// Makes a device the current one for what must not throw, whatever has failed.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) : before_(device), device_(device) {
    if (cudaGetDevice(&before_) != cudaSuccess) cudaGetLastError();
    change(device_);
  }
  ~CurrentDevice() { change(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  void change(int to) const {
    if (before_ != device_ && cudaSetDevice(to) != cudaSuccess) cudaGetLastError();
  }
  int before_;
  const int device_;
};

// Reads the answer to whether something is done.
bool is_ready(cudaError_t state, const char* call) {
  if (state == cudaErrorNotReady) {
    cudaGetLastError();  // else the next launch would seem to have failed
    return false;
  }
  check(state, call);
  return true;
}

// Tells whether CUDA has copied host memory elsewhere when a copy to a device returns. It need not
// do so where the device can read that memory itself.
bool is_staged(const void* host) {
  if (attribute(cudaDevAttrPageableMemoryAccess, current_device()) != 0) return false;
  cudaPointerAttributes known{};
  check(cudaPointerGetAttributes(&known, host), "cudaPointerGetAttributes");
  return known.type == cudaMemoryTypeUnregistered;
}

}  // namespace

Versions versions() {
  Versions found{0, 0};
  check(cudaDriverGetVersion(&found.driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&found.runtime), "cudaRuntimeGetVersion");
  return found;
}

int device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) {
    cudaGetLastError();
    return 0;  // CUDA has not written the count
  }
  check(error, "cudaGetDeviceCount");
  return count;
}

Properties properties(int device) {
  require_ordinal(device, device_count());
  cudaDeviceProp found;
  check(cudaGetDeviceProperties(&found, device), "cudaGetDeviceProperties");
  return {found.name, found.major, found.minor, found.totalGlobalMem,
          static_cast<unsigned>(found.multiProcessorCount)};
}

OnDevice::OnDevice(int device) : before_(0) {
  require_ordinal(device, device_count());
  refuse_failed(device);
  before_ = current_device();
  if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
}

// To make a device current that is so already would begin a context on it, which takes memory.
OnDevice::~OnDevice() {
  int now = before_;
  if (cudaGetDevice(&now) != cudaSuccess || now != before_) cudaSetDevice(before_);
}

void throw_failed_launch(const char* kernel, const char* reason) {
  const std::string what = std::string("kernel ") + kernel + " failed: " + reason;
  // A kernel's code is loaded at its first launch. Where it finds no memory, nothing is broken.
  if (std::strcmp(reason, cudaGetErrorString(cudaErrorMemoryAllocation)) == 0)
    throw DeviceError(what + "; free other memory of the device, or use device=\"cpu\"");
  fail(current_device(), what);
}

std::size_t free_memory() {
  refuse_if_failed();
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

int device_of(const void* address) {
  if (device_count() == 0) return -1;
  cudaPointerAttributes found{};
  check(cudaPointerGetAttributes(&found, address), "cudaPointerGetAttributes");
  const bool there = found.type == cudaMemoryTypeDevice || found.type == cudaMemoryTypeManaged;
  return there ? found.device : -1;
}

void* allocate(std::size_t bytes) {
  refuse_if_failed();
  void* address = nullptr;
  if (bytes > 0) check_allocation(cudaMalloc(&address, bytes), bytes, "cudaMalloc");
  return address;
}

// An error that shows here is an earlier one of the device, of which whoever waits is told.
void release(int device, void* address) noexcept {
  const CurrentDevice here(device);
  if (cudaFree(address) != cudaSuccess) cudaGetLastError();
}

void* allocate_on(StreamHandle stream, std::size_t bytes) {
  refuse_if_failed();
  const int device = current_device();
  if (attribute(cudaDevAttrMemoryPoolsSupported, device) == 0) throw_without_pools(device);
  void* address = nullptr;
  if (bytes > 0)
    check_allocation(cudaMallocAsync(&address, bytes, of(stream)), bytes, "cudaMallocAsync");
  return address;
}

// The default streams of two devices have one handle.
void release_on(int device, StreamHandle stream, void* address) noexcept {
  const CurrentDevice here(device);
  if (address != nullptr && cudaFreeAsync(address, of(stream)) != cudaSuccess) cudaGetLastError();
}

void copy_in(StreamHandle stream, void* to, const void* host, std::size_t bytes) {
  refuse_if_failed();
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, of(stream)), "cudaMemcpyAsync");
  if (!is_staged(host)) check(cudaStreamSynchronize(of(stream)), "cudaStreamSynchronize");
}

void copy_from_pinned(StreamHandle stream, void* to, const void* pinned, std::size_t bytes) {
  refuse_if_failed();
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, of(stream)), "cudaMemcpyAsync");
}

void copy_out(StreamHandle stream, void* host, const void* from, std::size_t bytes) {
  refuse_if_failed();
  if (bytes == 0) return;
  check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, of(stream)), "cudaMemcpyAsync");
}

void copy_within(StreamHandle stream, void* to, const void* from, std::size_t bytes) {
  refuse_if_failed();
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, of(stream)), "cudaMemcpyAsync");
}

void copy_across(StreamHandle stream, void* to, int to_device, const void* from, int from_device,
                 std::size_t bytes) {
  refuse_if_failed();
  if (bytes == 0) return;
  check(cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, of(stream)),
        "cudaMemcpyPeerAsync");
}

void fill_zeros(StreamHandle stream, void* to, std::size_t bytes) {
  refuse_if_failed();
  if (bytes > 0) check(cudaMemsetAsync(to, 0, bytes, of(stream)), "cudaMemsetAsync");
}

void wait(StreamHandle stream) {
  refuse_if_failed();
  check(cudaStreamSynchronize(of(stream)), "cudaStreamSynchronize");
}

bool is_done(StreamHandle stream) {
  refuse_if_failed();
  return is_ready(cudaStreamQuery(of(stream)), "cudaStreamQuery");
}

bool is_captured(StreamHandle stream) {
  refuse_if_failed();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(of(stream), &status);
  if (error == cudaErrorStreamCaptureImplicit) {  // of a stream that the default one waits for
    cudaGetLastError();
    return true;
  }
  check(error, "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void wait_for(StreamHandle stream, StreamHandle other) {
  refuse_if_failed();
  if (stream.address == other.address) return;
  cudaEvent_t reached = nullptr;
  check(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  cudaError_t error = cudaEventRecord(reached, of(other));
  if (error == cudaSuccess) error = cudaStreamWaitEvent(of(stream), reached, 0);
  cudaEventDestroy(reached);  // CUDA keeps it until the stream got there
  check(error, "cudaStreamWaitEvent");
}

void* allocate_pinned(std::size_t bytes) {
  refuse_if_failed();
  void* address = nullptr;
  const cudaError_t error = cudaHostAlloc(&address, bytes, cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw_without_pinned(bytes);
  }
  check(error, "cudaHostAlloc");
  return address;
}

void release_pinned(void* address) noexcept {
  if (address != nullptr && cudaFreeHost(address) != cudaSuccess) cudaGetLastError();
}

bool is_pinned(const void* address) {
  cudaPointerAttributes found{};
  check(cudaPointerGetAttributes(&found, address), "cudaPointerGetAttributes");
  return found.type == cudaMemoryTypeHost;
}

StreamHandle make_stream() {
  refuse_if_failed();
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return {reinterpret_cast<std::uintptr_t>(made)};
}

void destroy_stream(int device, StreamHandle stream) noexcept {
  const CurrentDevice here(device);
  if (cudaStreamDestroy(of(stream)) != cudaSuccess) cudaGetLastError();
}

EventHandle make_event() {
  refuse_if_failed();
  cudaEvent_t made = nullptr;
  check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return {reinterpret_cast<std::uintptr_t>(made)};
}

void destroy_event(EventHandle event) noexcept {
  if (cudaEventDestroy(of(event)) != cudaSuccess) cudaGetLastError();
}

void record(EventHandle event, StreamHandle stream) {
  refuse_if_failed();
  check(cudaEventRecord(of(event), of(stream)), "cudaEventRecord");
}

void wait_for(StreamHandle stream, EventHandle event) {
  refuse_if_failed();
  check(cudaStreamWaitEvent(of(stream), of(event), 0), "cudaStreamWaitEvent");
}

bool is_done(EventHandle event) {
  refuse_if_failed();
  return is_ready(cudaEventQuery(of(event)), "cudaEventQuery");
}

}  // namespace device
}  // namespace resmem
