// What the core asks of the operating system and of the CPU. No other file of the core knows
// either: everything else is standard C++17 and vector instructions.
#pragma once

#include <cstddef>
#include <string>
#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace resmem {

// What unwinds the stack of a thread that the C library ends by force. Where it does not do so,
// this is a type that nobody throws.
#if defined(__GLIBCXX__)
using ForcedUnwind = abi::__forced_unwind;
#else
struct ForcedUnwind {};
#endif

// The instructions that this CPU executes and whose registers this system keeps for a thread that
// it switches away from.
struct CpuFeatures {
  bool avx2 = false;               // with FMA and F16C
  bool avx512 = false;             // F, BW, DQ and VL
  bool avx512_vnni = false;        // of those with `avx512` alone
  bool neon_dot_products = false;  // NEON itself is part of AArch64
};
CpuFeatures cpu_features();

// Returns the bytes of the level-2 cache that one CPU reads through, or 0 if the system does not
// tell.
std::size_t level2_cache_bytes();

// Returns how many CPUs this process may use, at least 1. That is the lesser of two numbers: of the
// CPUs that its affinity mask names (on Linux the calling thread's; all where there is no mask),
// and of those that group_cpus("") leaves it.
std::size_t usable_cpus();

// Returns how many CPUs, rounded, the control groups (v2 and v1) of this process and all groups
// around them leave it, or 0 if they set no limit or the system has no such groups. `root` is where
// the file system begins; only tests give another one than "".
std::size_t group_cpus(const std::string& root);

// Returns memory for at least `bytes` bytes that begins at a cache line, or nullptr if there is not
// as much. Memory that fills two large pages or more begins at a large page and is backed by them,
// where the system gives some to whoever asks. free_array alone takes it back, and does nothing
// with nullptr. Any thread may call either.
void* allocate_array(std::size_t bytes);
void free_array(void* array) noexcept;

// Tells whether there is address space for one more thread: for its stack, and for what it asks for
// before it does any work. It is true where the system does not limit address space. Starting the
// thread may fail all the same.
bool room_for_a_thread();

// Returns how often this process and its ancestors were forked after the first call, which is
// always 0 where no process forks. Whoever keeps threads or locks compares this number with the one
// at the time they were made: a forked child has none of its parent's threads and may find its
// locks held.
unsigned fork_count();

// Tells whether the calling thread is the one that the process began with. It is true also where
// the system does not tell, so that nobody leaves out work that only that thread can do.
bool on_main_thread();

}  // namespace resmem
