// Loops whose subscripts are constants. The attributes see to it that their bodies are inlined, so
// that arrays of vectors stay in registers.
#pragma once

#ifndef RESMEM_INLINE  // the compiler of a device needs another
#define RESMEM_INLINE inline __attribute__((always_inline))
#endif
#define RESMEM_LAMBDA __attribute__((always_inline))

namespace resmem {
namespace {

template <int I>
struct Index {
  static constexpr int value = I;
};

// Calls f(Index<0>), f(Index<1>) .. f(Index<N-1>).
template <int N, int I = 0, class F>
RESMEM_INLINE void unroll(const F& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unroll<N, I + 1>(f);
  }
}

// indices<N>() is Indices<0, 1, .., N-1>: a fold over its numbers is such a loop without a lambda.
template <int... I>
struct Indices {};

template <int N, int... I>
RESMEM_INLINE constexpr auto indices() {
  if constexpr (N == 0)
    return Indices<I...>{};
  else
    return indices<N - 1, N - 1, I...>();
}

}  // namespace
}  // namespace resmem
