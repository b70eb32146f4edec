// What the played device is like, and what goes wrong with it, as tests choose.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace resmem {
namespace emulation {

struct Faults {
  int driver = 13000, runtime = 13000;  // versions; a driver of 0 is none
  int devices = 1;
  std::string name = "emulated device";
  int major = 9, minor = 0;                   // compute capability
  std::size_t memory = std::size_t{1} << 30;  // bytes of each device, all that can be allocated
  unsigned multiprocessors = 4;
  bool memory_pools = true;
  // So many allocations succeed, if there is memory, before so many fail.
  unsigned succeeding_allocations = 0, failing_allocations = 0;
  unsigned succeeding_copies = 0, failing_copies = 0;  // the same of copies,
  std::string counted_copies;  // of those alone that this call of the driver makes, if one is named
  std::size_t pinnable = std::size_t{1} << 30;  // bytes of the host that can be pinned at once
  std::string failing_kernel;                   // its launches fail
  unsigned busy_polls = 0;                      // how often a stream is asked before it is done
  bool failing_wait = false;                    // the next wait finds that something has failed
  std::function<void()> during_copy;            // is called by each copy

  bool fails(const char* kernel) const { return failing_kernel == kernel; }
};

Faults& faults();

// Returns the bytes that were allocated on all devices and not released.
std::size_t bytes_in_use();

// Returns the bytes of pinned memory of the host that were not released.
std::size_t pinned_in_use();

// Makes the devices those of a new process without faults. What is allocated stays so.
void reset_devices();

}  // namespace emulation
}  // namespace resmem
