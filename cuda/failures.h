// What the two drivers say where a device fails, and which devices have failed. A kernel that fails
// leaves its device in a state that only a new process can mend, so later use is refused.
#pragma once

#include <string>

#include "driver.h"

namespace resmem {
namespace device {

// Throws a DeviceError unless 0 <= device < count.
void require_ordinal(int device, int count);

// Throws a DeviceError that says what happened, and keeps its words for refuse_failed().
[[noreturn]] void fail(int device, const std::string& what);

// Throws the words that the device failed with, if it did.
void refuse_failed(int device);
bool has_failed(int device);

// Makes all devices usable again, which only the emulation can.
void forget_failures();

[[noreturn]] void throw_without_pools(int device);
[[noreturn]] void throw_without_pinned(std::size_t bytes);
// Throws a DeviceError: searches with such rows cannot be captured.
[[noreturn]] void throw_captured(const char* rows);

}  // namespace device
}  // namespace resmem
