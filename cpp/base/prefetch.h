// Asking for memory before it is needed.
#pragma once

#include <algorithm>
#include <cstddef>

namespace resmem {

// g++ takes a function that only prefetches for one without effect and drops calls of it: inlined,
// with an effect that it cannot see through.
[[gnu::always_inline]] inline void prefetch_bytes(const void* first, std::size_t bytes) {
  constexpr std::size_t kMost = 4096, kStep = 64;  // the hardware follows longer rows
  for (std::size_t i = 0; i < std::min(bytes, kMost); i += kStep)
    __builtin_prefetch(static_cast<const char*>(first) + i);
  asm volatile("");
}

}  // namespace resmem
