// Asks for memory before it is needed.
#pragma once

#include <algorithm>
#include <cstddef>

namespace resmem {

// g++ believes that a function which only prefetches has no effect, and drops calls of it. So this
// one is inlined, and has an effect (the empty asm) that the compiler cannot see through.
[[gnu::always_inline]] inline void prefetch_bytes(const void* first, std::size_t bytes) {
  constexpr std::size_t kMost = 4096, kStep = 64;  // the hardware itself fetches what lies beyond
  for (std::size_t i = 0; i < std::min(bytes, kMost); i += kStep)
    __builtin_prefetch(static_cast<const char*>(first) + i);
  asm volatile("");
}

}  // namespace resmem
