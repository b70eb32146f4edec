// Each instruction that CUDA C++ has no name for is one function here, with its contract and its
// twin for the emulation. Integers have one answer, so that a twin gives the device's bits.
#pragma once

#include <cmath>

#include "simt.h"

namespace resmem {
namespace simt {

// ---- Copies from global to shared memory that do not wait (cp.async) ----------------------------

// Begins to copy 16 bytes, of which the first `filled` come from `from` and the rest are 0. Both
// ends are multiples of 16 bytes. Where filled is 0, nothing is read.
#if defined(__CUDACC__)
RESMEM_DEVICE void copy_async(void* to, const void* from, unsigned filled) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
               "r"(filled)
               : "memory");
}
#else
inline void copy_async(void* to, const void* from, unsigned filled, int line = __builtin_LINE()) {
  emulation::Block::current().copy_later(to, from, filled, {"copy_async", line});
}
#endif

// Makes a group of this thread's copies since the last one.
RESMEM_DEVICE void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
  emulation::Block::current().commit_copies();
#endif
}

// Waits until at most kPending of this thread's groups are still on their way. Other threads see
// the copies after a barrier.
template <int kPending>
RESMEM_DEVICE void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#else
  emulation::Block::current().wait_for_copies(kPending);
#endif
}

// ---- Tiles of shared memory as operands of the next instruction (ldmatrix) ----------------------

// Loads four tiles of 8 rows of 16 bytes. Lane 8 t + r gives the place of row r of tile t, a
// multiple of 16 bytes. Lane l gets in word[t] the 4 bytes of tile t that lie in row l / 4 from
// byte 4 (l % 4) on:
//
//   row of a tile   bytes 0..3   4..7     8..11    12..15
//   0               lane 0       lane 1   lane 2   lane 3
//   1               lane 4       lane 5   ..
//   7               lane 28      ..                lane 31
#if defined(__CUDACC__)
RESMEM_DEVICE void load_tiles(std::uint32_t (&word)[4], const void* row) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(shared)
               : "memory");
}
#else
inline void load_tiles(std::uint32_t (&word)[4], const void* row, int line = __builtin_LINE()) {
  const void* const* rows = emulation::Block::current().exchange(row, {"load_tiles", line});
  for (unsigned t = 0; t < 4; ++t)
    std::memcpy(&word[t], static_cast<const char*>(rows[8 * t + lane() / 4]) + 4 * (lane() % 4),
                sizeof word[t]);
}
#endif

// ---- Products of matrices of signed bytes (mma.sync m16n8k32) -----------------------------------

// Adds a (16, 32) times b (32, 8) to sum (16, 8), in 32-bit integers that wrap. With g = lane / 4
// and t = lane % 4, a lane holds
//
//   a[i]    row g + 8 (i % 2), columns 4 t + 16 (i / 2) .. + 3     four bytes, the lowest first
//   b[i]    column g, rows 4 t + 16 i .. + 3                       four bytes, the lowest first
//   sum[i]  row g + 8 (i / 2), column 2 t + i % 2
//
// which is what load_tiles() gives of a row-major a, and of a b that is kept column by column.
#if defined(__CUDACC__)
RESMEM_DEVICE void multiply_bytes(std::int32_t (&sum)[4], const std::uint32_t (&a)[4],
                                  const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline void multiply_bytes(std::int32_t (&sum)[4], const std::uint32_t (&a)[4],
                           const std::uint32_t (&b)[2], int line = __builtin_LINE()) {
  struct Operands {
    std::uint32_t a[4], b[2];
  };
  const Operands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const Operands* all = emulation::Block::current().exchange(mine, {"multiply_bytes", line});
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + 8 * (i / 2), column = 2 * t + i % 2;
    auto total = static_cast<std::uint32_t>(sum[i]);
    for (unsigned four = 0; four < 8; ++four) {  // columns of a, rows of b, four at a time
      const std::uint32_t left = all[row % 8 * 4 + four % 4].a[row / 8 + 2 * (four / 4)];
      const std::uint32_t right = all[column * 4 + four % 4].b[four / 4];
      for (unsigned shift = 0; shift < 32; shift += 8)
        total += static_cast<std::uint32_t>(static_cast<std::int8_t>(left >> shift) *
                                            static_cast<std::int8_t>(right >> shift));
    }
    sum[i] = static_cast<std::int32_t>(total);
  }
}
#endif

// ---- Products of four signed bytes (dp4a) -------------------------------------------------------

// Returns sum + a_0 b_0 + .. + a_3 b_3 in 32-bit integers that wrap.
RESMEM_DEVICE std::int32_t multiply_four_bytes(std::uint32_t a, std::uint32_t b, std::int32_t sum) {
#if defined(__CUDACC__)
  return __dp4a(static_cast<std::int32_t>(a), static_cast<std::int32_t>(b), sum);
#else
  auto total = static_cast<std::uint32_t>(sum);
  for (unsigned shift = 0; shift < 32; shift += 8)
    total += static_cast<std::uint32_t>(static_cast<std::int8_t>(a >> shift) *
                                        static_cast<std::int8_t>(b >> shift));
  return static_cast<std::int32_t>(total);
#endif
}

// ---- float16 (cvt) ------------------------------------------------------------------------------

// Returns the float32 of the bits of a float16: 1 sign, 5 exponent (bias 15) and 10 fraction bits.
#if defined(__CUDACC__)
RESMEM_DEVICE float widened_half(std::uint16_t half) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(half));
  return wide;
}
#else
inline float widened_half(std::uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 0x3FF;
  const float size = exponent == 31 ? (fraction == 0 ? HUGE_VALF : NAN)
                     : exponent == 0
                         ? std::ldexp(static_cast<float>(fraction), -24)
                         : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return (half & 0x8000) != 0 ? -size : size;
}
#endif

}  // namespace simt
}  // namespace resmem
