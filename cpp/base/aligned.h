// Large arrays that kernels read. They begin at a cache line, and lie on large pages where they
// fill some.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "platform.h"

namespace resmem {

template <class T>
struct AlignedAllocator {
  using value_type = T;

  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}

  T* allocate(std::size_t count) {
    void* at = allocate_array(count * sizeof(T));
    if (at == nullptr) throw std::bad_alloc();
    return static_cast<T*>(at);
  }
  void deallocate(T* at, std::size_t) { free_array(at); }
};
template <class T, class U>
bool operator==(const AlignedAllocator<T>&, const AlignedAllocator<U>&) {
  return true;
}
template <class T, class U>
bool operator!=(const AlignedAllocator<T>&, const AlignedAllocator<U>&) {
  return false;
}

template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace resmem
