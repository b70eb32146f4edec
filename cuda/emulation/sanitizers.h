// Tells the sanitizers what the emulation does, where the build has any.
#pragma once

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RESMEM_ADDRESS_SANITIZER 1
#endif
#if __has_feature(thread_sanitizer)
#define RESMEM_THREAD_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define RESMEM_ADDRESS_SANITIZER 1
#endif
#if defined(__SANITIZE_THREAD__)
#define RESMEM_THREAD_SANITIZER 1
#endif

#if defined(RESMEM_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif
#if defined(RESMEM_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace resmem {
namespace emulation {

// While it lives, ThreadSanitizer does not look: the emulation's own records are no kernel's
// memory.
class Unwatched {
 public:
#if defined(RESMEM_THREAD_SANITIZER)
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unwatched() {}
  ~Unwatched() {}
#endif
  Unwatched(const Unwatched&) = delete;
  Unwatched& operator=(const Unwatched&) = delete;
};

// Whatever a fiber did before publish(tag) happens before what another does after observe(tag).
inline void publish([[maybe_unused]] void* tag) {
#if defined(RESMEM_THREAD_SANITIZER)
  __tsan_release(tag);
#endif
}
inline void observe([[maybe_unused]] void* tag) {
#if defined(RESMEM_THREAD_SANITIZER)
  __tsan_acquire(tag);
#endif
}

}  // namespace emulation
}  // namespace resmem
