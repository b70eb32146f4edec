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

// Exact: 16 codes are widened at a time, products added in pairs (kernel_table.h).
inline std::int32_t code_dot(const std::int8_t* row, const std::int16_t* query, std::size_t n) {
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  const auto take = [&](__m256i & s, std::size_t i) __attribute__((always_inline)) {
    const __m256i wide =
        _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i)));
    const __m256i other = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + i));
    s = _mm256_add_epi32(s, _mm256_madd_epi16(wide, other));
  };
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    take(sum[0], i);
    take(sum[1], i + 16);
  }
  if (i < n) take(sum[0], i);
  const __m256i both = _mm256_add_epi32(sum[0], sum[1]);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

}  // namespace
}  // namespace resmem
