// What the core asks of the operating system and of the CPU. No other file of the core knows
// either: everything else is standard C++17 and vector instructions.
#pragma once

#include <cstddef>
#include <string>

namespace resmem {

// What this CPU executes and this system keeps for a thread that it switches away from.
struct CpuFeatures {
  bool avx2 = false;               // with FMA and F16C
  bool avx512 = false;             // F, BW, DQ and VL
  bool avx512_vnni = false;        // of those with `avx512` alone
  bool neon_dot_products = false;  // NEON itself is part of AArch64
};
CpuFeatures cpu_features();

// Bytes of the level-2 cache that one CPU reads through; 0 if the system does not tell.
std::size_t level2_cache_bytes();

// CPUs that this process may use, at least 1: the lesser of those that its affinity mask names (the
// calling thread's, on Linux), or all where there is no mask, and of what group_cpus("") leaves it.
std::size_t usable_cpus();

// CPUs, rounded, that the control groups (v2 and v1) of this process and all groups around them
// leave it; 0 if they set no limit or the system has no such groups. `root` is where the file
// system begins: "" but for tests.
std::size_t group_cpus(const std::string& root);

// Memory for at least `bytes` bytes that begins at a cache line; nullptr if there is not as much.
// What fills two large pages or more begins at one and is backed by them, where the system gives
// some to whoever asks. free_array alone takes it back, and does nothing with nullptr. Any thread
// may call either.
void* allocate_array(std::size_t bytes);
void free_array(void* array) noexcept;

// Whether there is address space for one more thread: its stack, and what it asks for before it
// does any work. True where no system limits address space; starting the thread may fail anyway.
bool room_for_a_thread();

// How often this process and its ancestors were forked after the first call, always 0 where no
// process forks. Whoever keeps threads or locks compares the number with that of their making: a
// forked child has none of its parent's threads and may find its locks held.
unsigned fork_count();

// Whether the calling thread is the one that the process began with. True also where the system
// does not tell, so that it may be asked before work that other threads do in vain.
bool on_main_thread();

}  // namespace resmem
