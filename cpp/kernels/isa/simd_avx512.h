// AVX-512 F: 32 registers of 16 floats.
//
// Dot tile: 12 rows x 2 vectors = 24 accumulators + 2 panel vectors; the broadcast is an
// operand of the FMA. Difference tile: 8 x 2 = 16 accumulators + 2 + temporaries.
// Head tile: 4 keys x 4 columns = 16 accumulators + 4 weights + temporaries.
// RESMEM_EMULATE_AVX512 runs the same body through SIMDe on a CPU without AVX-512.
#pragma once

#ifdef RESMEM_EMULATE_AVX512
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#undef _mm512_madd_epi16  // SIMDe 0.7 gives the alias the masked form's parameters
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#else
#include <immintrin.h>
#endif

#include <cstdint>

#include "../float64_bits.h"
#include "simd_x86.h"

namespace resmem {
namespace {

#ifdef RESMEM_EMULATE_AVX512
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

struct F32 {
  __m512 v;
  static constexpr int kLanes = 16;
  static F32 set1(float x) { return {_mm512_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32 load_first(const float* p, int n) {  // SIMDe has no masked load; once per row
    float lane[16] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return load(lane);
  }
  static F32 widen(const std::uint16_t* p) {
#ifdef RESMEM_EMULATE_AVX512  // SIMDe has no conversions of this width
    float lane[16];
    for (int i = 0; i < 16; i += 8)
      _mm256_storeu_ps(lane + i,
                       _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i))));
    return load(lane);
#else
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
#endif
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void narrow(std::uint16_t* p) const {
    constexpr int kRounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#ifdef RESMEM_EMULATE_AVX512
    float lane[16];
    store(lane);
    for (int i = 0; i < 16; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(lane + i), kRounding));
#else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, kRounding));
#endif
  }
};
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline std::uint32_t ge_mask(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
// out[i] = the sum of the lanes of sums[i], for eight of them.
inline void add_lanes(const F32* sums, float* out) {
  __m256 half[8];
  for (int i = 0; i < 8; ++i)
    half[i] =
        _mm256_add_ps(_mm512_castps512_ps256(sums[i].v),
                      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sums[i].v), 1)));
  add_lanes_256(half, out);
}

struct F64 {
  __m512d v;
  static constexpr int kLanes = 8;
  static F64 set1(double x) { return {_mm512_set1_pd(x)}; }
  static F64 load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static F64 widen(const double* p) { return load(p); }
  static F64 widen(const float* p) {
#ifdef RESMEM_EMULATE_AVX512  // SIMDe has no conversions of this width
    double lane[8];
    for (int i = 0; i < 8; ++i) lane[i] = static_cast<double>(p[i]);
    return load(lane);
#else
    return {_mm512_cvtps_pd(_mm256_loadu_ps(p))};
#endif
  }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  void narrow(float* p) const {
#ifdef RESMEM_EMULATE_AVX512
    double lane[8];
    store(lane);
    for (int i = 0; i < 8; ++i) p[i] = static_cast<float>(lane[i]);
#else
    _mm256_storeu_ps(p, _mm512_cvtpd_ps(v));
#endif
  }
};
inline F64 add(F64 a, F64 b) { return {_mm512_add_pd(a.v, b.v)}; }
inline F64 sub(F64 a, F64 b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline F64 mul(F64 a, F64 b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline F64 abs(F64 a) { return {_mm512_abs_pd(a.v)}; }
inline F64 div(F64 a, F64 b) { return {_mm512_div_pd(a.v, b.v)}; }
inline F64 min(F64 a, F64 b) { return {_mm512_min_pd(a.v, b.v)}; }
inline F64 max(F64 a, F64 b) { return {_mm512_max_pd(a.v, b.v)}; }
inline F64 pow2_of_shifted(F64 shifted) {  // float64_bits.h
  const __m512i biased = _mm512_add_epi64(_mm512_castpd_si512(shifted.v), _mm512_set1_epi64(1023));
  return {_mm512_castsi512_pd(_mm512_slli_epi64(biased, 52))};
}
// x where v > t, else 0.
inline F64 keep_greater(F64 v, F64 t, F64 x) {
  return {_mm512_maskz_mov_pd(_mm512_cmp_pd_mask(v.v, t.v, _CMP_GT_OQ), x.v)};
}
inline LogParts<F64> log_parts(F64 x) {  // float64_bits.h
  const __m512i t = _mm512_add_epi64(_mm512_castpd_si512(x.v), _mm512_set1_epi64(kLogCarry));
  const __m512i exponent = _mm512_or_si512(_mm512_srli_epi64(t, 52), _mm512_set1_epi64(kTwo52));
  const __m512i fraction = _mm512_and_si512(t, _mm512_set1_epi64(kFraction));
  return {{_mm512_sub_pd(_mm512_castsi512_pd(exponent), _mm512_set1_pd(kLogBias))},
          {_mm512_castsi512_pd(_mm512_add_epi64(fraction, _mm512_set1_epi64(kSqrtHalf)))}};
}

// Coded scores: with VNNI sums of 32 bits, without it modulo 2^16 as in simd_avx2.h.
struct CodeRows {  // four codes of 16 rows, or of a query 16 times
  __m512i v;
  static CodeRows load(const std::int8_t* p) { return {_mm512_loadu_si512(p)}; }
  static CodeRows broadcast(const std::uint8_t* p) {
    return {_mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(p))};
  }
};
struct CodeScores {
  __m512i v;
  static constexpr int kRows = 16;
#ifdef RESMEM_VNNI
  static CodeScores start(const std::int32_t* init, std::int32_t threshold) {
    return {_mm512_sub_epi32(_mm512_loadu_si512(init), _mm512_set1_epi32(threshold))};
  }
  void add(CodeRows query, CodeRows rows) { v = _mm512_dpbusd_epi32(v, query.v, rows.v); }
  __m512i total() const { return v; }
  void store(std::int32_t* out) const { _mm512_storeu_si512(out, v); }
#else
  static CodeScores start(const std::int32_t* init, std::int32_t threshold) {
    const __m512i first = _mm512_loadu_si512(init);
    return {_mm512_and_si512(_mm512_sub_epi32(first, _mm512_set1_epi32(threshold)),
                             _mm512_set1_epi32(0xFFFF))};
  }
  void add(CodeRows query, CodeRows rows) {
    v = _mm512_add_epi16(v, _mm512_maddubs_epi16(query.v, rows.v));
  }
  __m512i total() const { return _mm512_add_epi16(v, _mm512_slli_epi32(v, 16)); }
  void store(std::int32_t* out) const {  // by halves: SIMDe has no _mm512_srai_epi32
    const __m512i high = total();
    const __m256i half[2] = {_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1)};
    for (int i = 0; i < 2; ++i)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * i), _mm256_srai_epi32(half[i], 16));
  }
#endif
};
struct CodeSigns {
  __m512i v;
  static CodeSigns of(CodeScores s) { return {s.total()}; }
  CodeSigns both(CodeSigns other) const { return {_mm512_and_si512(v, other.v)}; }
  std::uint32_t nonnegative() const { return _mm512_cmpgt_epi32_mask(v, _mm512_set1_epi32(-1)); }
};

struct WideCodes {
  __m512i v;
  static constexpr int kCodes = 32;
  static WideCodes load(const std::int8_t* row) {
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)))};
  }
};
struct CodeSum {
  __m512i v;
  static CodeSum zero() { return {_mm512_setzero_si512()}; }
  void add(WideCodes row, const std::int16_t* query) {
    const __m512i other = _mm512_loadu_si512(query);
#ifdef RESMEM_VNNI
    v = _mm512_dpwssd_epi32(v, row.v, other);
#else
    v = _mm512_add_epi32(v, _mm512_madd_epi16(row.v, other));
#endif
  }
  void add(CodeSum other) { v = _mm512_add_epi32(v, other.v); }
  std::int32_t total() const {
    return add_lanes_256(
        _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
  }
};

constexpr int kPanelVectors = 2;  // NR = 32
constexpr int kDotRows = 12;
constexpr int kDiffRows = 8;
constexpr int kHeadKeys = 4;
constexpr int kHeadColumns = 4;
constexpr int kCodeQueries = 6;
constexpr int kCodeVectors = 2;

}  // namespace
}  // namespace resmem
