// AVX2 + FMA + F16C: 16 registers of 8 floats.
//
// Dot tile: 6 rows x 2 vectors = 12 accumulators + 2 panel vectors + 1 broadcast = 15
// registers; two FMA pipes of latency 4-5 need 8-10 independent accumulators.
// Difference tile: 4 x 2 = 8 accumulators, since each pair also needs a subtraction and its
// result, and cores that issue four vector operations a cycle are then bound by issue.
// Head tile: 3 keys x 2 columns, a half of the eight partial sums at a time: 2 x 6 accumulators
// + 2 weights + 1 key or product = 15.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../float64_bits.h"
#include "simd_x86.h"

namespace resmem {
namespace {

struct F32 {
  __m256 v;
  static constexpr int kLanes = 8;
  static F32 set1(float x) { return {_mm256_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static F32 load_first(const float* p, int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane))};
  }
  static F32 widen(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void narrow(std::uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline std::uint32_t ge_mask(F32 a, F32 b) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)));
}
// out[i] = the sum of the lanes of sums[i], for eight of them.
inline void add_lanes(const F32* sums, float* out) {
  __m256 whole[8];
  for (int i = 0; i < 8; ++i) whole[i] = sums[i].v;
  add_lanes_256(whole, out);
}

struct F64 {
  __m256d v;
  static constexpr int kLanes = 4;
  static F64 set1(double x) { return {_mm256_set1_pd(x)}; }
  static F64 load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static F64 widen(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
  static F64 widen(const double* p) { return load(p); }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  void narrow(float* p) const { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); }
};
inline F64 add(F64 a, F64 b) { return {_mm256_add_pd(a.v, b.v)}; }
inline F64 sub(F64 a, F64 b) { return {_mm256_sub_pd(a.v, b.v)}; }
inline F64 mul(F64 a, F64 b) { return {_mm256_mul_pd(a.v, b.v)}; }
inline F64 abs(F64 a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
inline F64 div(F64 a, F64 b) { return {_mm256_div_pd(a.v, b.v)}; }
inline F64 min(F64 a, F64 b) { return {_mm256_min_pd(a.v, b.v)}; }
inline F64 max(F64 a, F64 b) { return {_mm256_max_pd(a.v, b.v)}; }
inline F64 pow2_of_shifted(F64 shifted) {  // float64_bits.h
  const __m256i biased = _mm256_add_epi64(_mm256_castpd_si256(shifted.v), _mm256_set1_epi64x(1023));
  return {_mm256_castsi256_pd(_mm256_slli_epi64(biased, 52))};
}
// x where v > t, else 0.
inline F64 keep_greater(F64 v, F64 t, F64 x) {
  return {_mm256_and_pd(_mm256_cmp_pd(v.v, t.v, _CMP_GT_OQ), x.v)};
}
inline LogParts<F64> log_parts(F64 x) {  // float64_bits.h
  const __m256i t = _mm256_add_epi64(_mm256_castpd_si256(x.v), _mm256_set1_epi64x(kLogCarry));
  const __m256i exponent = _mm256_or_si256(_mm256_srli_epi64(t, 52), _mm256_set1_epi64x(kTwo52));
  const __m256i fraction = _mm256_and_si256(t, _mm256_set1_epi64x(kFraction));
  return {{_mm256_sub_pd(_mm256_castsi256_pd(exponent), _mm256_set1_pd(kLogBias))},
          {_mm256_castsi256_pd(_mm256_add_epi64(fraction, _mm256_set1_epi64x(kSqrtHalf)))}};
}

// Coded scores: products of a query's and a row's codes are added in pairs (at most 2 * 127^2, so
// nothing saturates) and summed modulo 2^16 in two halves of a row's 32 bits.
struct CodeRows {  // four codes of 8 rows, or of a query 8 times
  __m256i v;
  static CodeRows load(const std::int8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  static CodeRows broadcast(const std::uint8_t* p) {
    return {_mm256_set1_epi32(*reinterpret_cast<const std::int32_t*>(p))};
  }
};
struct CodeScores {
  __m256i v;
  static constexpr int kRows = 8;
  static CodeScores start(const std::int32_t* init, std::int32_t threshold) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(init));
    return {_mm256_and_si256(_mm256_sub_epi32(first, _mm256_set1_epi32(threshold)),
                             _mm256_set1_epi32(0xFFFF))};
  }
  void add(CodeRows query, CodeRows rows) {
    v = _mm256_add_epi16(v, _mm256_maddubs_epi16(query.v, rows.v));
  }
  // The sum of both halves modulo 2^16, in the upper one.
  __m256i total() const { return _mm256_add_epi16(v, _mm256_slli_epi32(v, 16)); }
  void store(std::int32_t* out) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_srai_epi32(total(), 16));
  }
};
struct CodeSigns {
  __m256i v;
  static CodeSigns of(CodeScores s) { return {s.total()}; }
  CodeSigns both(CodeSigns other) const { return {_mm256_and_si256(v, other.v)}; }
  std::uint32_t nonnegative() const {
    return ~static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(v))) & 0xFF;
  }
};
struct WideCodes {
  __m256i v;
  static constexpr int kCodes = 16;
  static WideCodes load(const std::int8_t* row) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)))};
  }
};
struct CodeSum {
  __m256i v;
  static CodeSum zero() { return {_mm256_setzero_si256()}; }
  void add(WideCodes row, const std::int16_t* query) {
    const __m256i other = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query));
    v = _mm256_add_epi32(v, _mm256_madd_epi16(row.v, other));
  }
  void add(CodeSum other) { v = _mm256_add_epi32(v, other.v); }
  std::int32_t total() const { return add_lanes_256(v); }
};

constexpr int kPanelVectors = 2;  // NR = 16
constexpr int kDotRows = 6;
constexpr int kDiffRows = 4;
constexpr int kHeadKeys = 3;
constexpr int kHeadColumns = 2;
constexpr int kCodeQueries = 4;
constexpr int kCodeVectors = 2;

}  // namespace
}  // namespace resmem
