// NEON (AArch64): 32 registers of 4 floats.
//
// Dot tile: 6 rows x 4 vectors = 24 accumulators + 4 panel vectors + 1 broadcast = 29.
// Difference tile: 4 x 4 = 16 accumulators + 4 + temporaries.
// Head tile: 3 keys x 2 columns x 4 vectors of partial sums = 24 accumulators + 2 + temporaries.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "../float64_bits.h"

namespace resmem {
namespace {

struct F32 {
  float32x4_t v;
  static constexpr int kLanes = 4;
  static F32 set1(float x) { return {vdupq_n_f32(x)}; }
  static F32 load(const float* p) { return {vld1q_f32(p)}; }
  static F32 load_first(const float* p, int n) {
    float lane[4] = {0, 0, 0, 0};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return load(lane);
  }
  static F32 widen(const std::uint16_t* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))};
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void narrow(std::uint16_t* p) const { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
};
inline F32 add(F32 a, F32 b) { return {vaddq_f32(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {vsubq_f32(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {vmulq_f32(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {vmaxnmq_f32(a.v, b.v)}; }
inline F32 abs(F32 a) { return {vabsq_f32(a.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
inline std::uint32_t ge_mask(F32 a, F32 b) {
  const uint32x4_t bit = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgeq_f32(a.v, b.v), bit));
}
// out[i] = the sum of the lanes of sums[i], for eight of them.
inline void add_lanes(const F32* sums, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = vaddvq_f32(sums[i].v);
}

struct F64 {
  float64x2_t v;
  static constexpr int kLanes = 2;
  static F64 set1(double x) { return {vdupq_n_f64(x)}; }
  static F64 load(const double* p) { return {vld1q_f64(p)}; }
  static F64 widen(const float* p) { return {vcvt_f64_f32(vld1_f32(p))}; }
  static F64 widen(const double* p) { return load(p); }
  void store(double* p) const { vst1q_f64(p, v); }
  void narrow(float* p) const { vst1_f32(p, vcvt_f32_f64(v)); }
};
inline F64 add(F64 a, F64 b) { return {vaddq_f64(a.v, b.v)}; }
inline F64 sub(F64 a, F64 b) { return {vsubq_f64(a.v, b.v)}; }
inline F64 mul(F64 a, F64 b) { return {vmulq_f64(a.v, b.v)}; }
inline F64 abs(F64 a) { return {vabsq_f64(a.v)}; }
inline F64 div(F64 a, F64 b) { return {vdivq_f64(a.v, b.v)}; }
inline F64 min(F64 a, F64 b) { return {vminq_f64(a.v, b.v)}; }
inline F64 max(F64 a, F64 b) { return {vmaxq_f64(a.v, b.v)}; }
inline F64 pow2_of_shifted(F64 shifted) {  // float64_bits.h
  const int64x2_t biased = vaddq_s64(vreinterpretq_s64_f64(shifted.v), vdupq_n_s64(1023));
  return {vreinterpretq_f64_s64(vshlq_n_s64(biased, 52))};
}
// x where v > t, else 0.
inline F64 keep_greater(F64 v, F64 t, F64 x) {
  return {vreinterpretq_f64_u64(vandq_u64(vcgtq_f64(v.v, t.v), vreinterpretq_u64_f64(x.v)))};
}
inline LogParts<F64> log_parts(F64 x) {  // float64_bits.h
  const int64x2_t t = vaddq_s64(vreinterpretq_s64_f64(x.v), vdupq_n_s64(kLogCarry));
  const uint64x2_t shifted = vshrq_n_u64(vreinterpretq_u64_s64(t), 52);
  const uint64x2_t exponent = vorrq_u64(shifted, vreinterpretq_u64_s64(vdupq_n_s64(kTwo52)));
  const int64x2_t fraction = vandq_s64(t, vdupq_n_s64(kFraction));
  return {{vsubq_f64(vreinterpretq_f64_u64(exponent), vdupq_n_f64(kLogBias))},
          {vreinterpretq_f64_s64(vaddq_s64(fraction, vdupq_n_s64(kSqrtHalf)))}};
}

// Coded scores, sums of 32 bits. The codes of queries are below 128: signed products serve.
struct CodeRows {  // four codes of 4 rows, or of a query 4 times
  int8x16_t v;
  static CodeRows load(const std::int8_t* p) { return {vld1q_s8(p)}; }
  static CodeRows broadcast(const std::uint8_t* p) {
    return {vreinterpretq_s8_u32(vdupq_n_u32(*reinterpret_cast<const std::uint32_t*>(p)))};
  }
};
struct CodeScores {
  int32x4_t v;
  static constexpr int kRows = 4;
  static CodeScores start(const std::int32_t* init, std::int32_t threshold) {
    return {vsubq_s32(vld1q_s32(init), vdupq_n_s32(threshold))};
  }
  void store(std::int32_t* out) const { vst1q_s32(out, v); }
#ifdef RESMEM_DOTPROD
  void add(CodeRows query, CodeRows rows) { v = vdotq_s32(v, query.v, rows.v); }
#else
  void add(CodeRows query, CodeRows rows) {  // pairs of products fit into 16 bits
    const int16x8_t low = vmull_s8(vget_low_s8(query.v), vget_low_s8(rows.v));
    const int16x8_t high = vmull_high_s8(query.v, rows.v);
    v = vpadalq_s16(v, vpaddq_s16(low, high));
  }
#endif
};
struct CodeSigns {
  int32x4_t v;
  static CodeSigns of(CodeScores s) { return {s.v}; }
  CodeSigns both(CodeSigns other) const { return {vandq_s32(v, other.v)}; }
  std::uint32_t nonnegative() const {
    const uint32x4_t bit = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgezq_s32(v), bit));
  }
};
struct WideCodes {
  int16x8_t v;
  static constexpr int kCodes = 8;
  static WideCodes load(const std::int8_t* row) { return {vmovl_s8(vld1_s8(row))}; }
};
struct CodeSum {
  int32x4_t v;
  static CodeSum zero() { return {vdupq_n_s32(0)}; }
  void add(WideCodes row, const std::int16_t* query) {
    const int16x8_t other = vld1q_s16(query);
    v = vmlal_s16(v, vget_low_s16(row.v), vget_low_s16(other));
    v = vmlal_high_s16(v, row.v, other);
  }
  void add(CodeSum other) { v = vaddq_s32(v, other.v); }
  std::int32_t total() const { return vaddvq_s32(v); }
};

constexpr int kPanelVectors = 4;  // NR = 16
constexpr int kDotRows = 6;
constexpr int kDiffRows = 4;
constexpr int kHeadKeys = 3;
constexpr int kHeadColumns = 2;
constexpr int kCodeQueries = 6;
constexpr int kCodeVectors = 4;

}  // namespace
}  // namespace resmem
