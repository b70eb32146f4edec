// What the AVX2 and AVX-512 kernels share; included after the intrinsics.
#pragma once

namespace resmem {
namespace {

// out[i] = the sum of the lanes of sums[i], for eight of them.
inline void add_lanes_256(const __m256* sums, float* out) {
  const __m256 a = _mm256_hadd_ps(sums[0], sums[1]), b = _mm256_hadd_ps(sums[2], sums[3]);
  const __m256 c = _mm256_hadd_ps(sums[4], sums[5]), d = _mm256_hadd_ps(sums[6], sums[7]);
  const __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
  const __m256 low = _mm256_permute2f128_ps(ab, cd, 0x20);
  const __m256 high = _mm256_permute2f128_ps(ab, cd, 0x31);
  _mm256_storeu_ps(out, _mm256_add_ps(low, high));
}

inline std::int32_t add_lanes_256(__m256i sum) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

}  // namespace
}  // namespace resmem
