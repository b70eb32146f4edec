#include "failures.h"

#include <cstdio>
#include <map>
#include <mutex>

namespace resmem {
namespace device {
namespace {

struct Failed {
  std::mutex mutex;
  std::map<int, std::string> words;
};

Failed& failed() {
  static Failed each;
  return each;
}

std::string mebibytes(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace

OutOfDeviceMemory::OutOfDeviceMemory(std::size_t asked_bytes, std::size_t free_bytes,
                                     std::size_t total_bytes)
    : DeviceError("the device has " + mebibytes(free_bytes) + " of its " + mebibytes(total_bytes) +
                  " free, and " + mebibytes(asked_bytes) +
                  " were asked for. Give a smaller workspace_bytes= (fewer queries at once), free "
                  "other memory of the device, keep keys as key_dtype=\"float16\", or use "
                  "device=\"cpu\""),
      asked(asked_bytes),
      free(free_bytes),
      total(total_bytes) {}

void require_ordinal(int device, int count) {
  if (device >= 0 && device < count) return;
  const std::string got = ", got " + std::to_string(device);
  if (count == 0)
    throw DeviceError("there is no CUDA device that a driver knows" + got +
                      "; use device=\"cpu\", or see whether nvidia-smi lists a device");
  throw DeviceError("the number of a device must be from 0 to " + std::to_string(count - 1) + got);
}

void fail(int device, const std::string& what) {
  const std::string words = what + "; device " + std::to_string(device) +
                            " cannot be used any more by this process: start a new one";
  const std::lock_guard<std::mutex> lock(failed().mutex);
  // The first failure is the cause of those that follow.
  throw DeviceError(failed().words.emplace(device, words).first->second);
}

void refuse_failed(int device) {
  const std::lock_guard<std::mutex> lock(failed().mutex);
  const auto found = failed().words.find(device);
  if (found != failed().words.end()) throw DeviceError(found->second);
}

void forget_failures() {
  const std::lock_guard<std::mutex> lock(failed().mutex);
  failed().words.clear();
}

bool has_failed(int device) {
  const std::lock_guard<std::mutex> lock(failed().mutex);
  return failed().words.count(device) > 0;
}

void throw_without_pools(int device) {
  throw DeviceError("device " + std::to_string(device) +
                    " must support memory pools, for memory in the order of a stream, and does not "
                    "(some virtual machines lack them); use device=\"cpu\"");
}

void throw_captured(const char* rows) {
  throw DeviceError(std::string("a search cannot be captured into a graph where rows ") + rows +
                    ", as the host takes part in it; capture searches of rows that all stay on one "
                    "device");
}

void throw_without_pinned(std::size_t bytes) {
  throw DeviceError("the host has no " + mebibytes(bytes) +
                    " to pin, which rows pass through that do not fit the device; free memory of "
                    "the host, give a smaller resident_bytes=, or use device=\"cpu\"");
}

}  // namespace device
}  // namespace resmem
