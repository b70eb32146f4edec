// One float at a time: the reference the vector tables are held against, and the fallback.
#pragma once

#include <cstdint>
#include <cstring>

#include "../float64_bits.h"

namespace resmem {
namespace {

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// float16: 1 sign, 5 exponent (bias 15) and 10 fraction bits, where float32 has 1, 8 (127), 23.
inline float widen_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t exponent = half >> 10 & 31, fraction = half & 0x3FF;
  if (exponent == 31)  // infinity, or a NaN that becomes a quiet one
    return float_of(sign | 0x7F800000 | fraction << 13 | (fraction != 0 ? 0x400000 : 0));
  if (exponent == 0) {  // zero or subnormal: a multiple of 2^-24
    const float size = static_cast<float>(fraction) * 0x1p-24F;
    return float_of(sign | bits_of(size));
  }
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

inline std::uint16_t narrow_half(float x) {
  const std::uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
  std::uint32_t half = 0;
  if (size > 0x7F800000) {  // NaN: quiet, its fraction cut
    half = 0x7E00 | (size >> 13 & 0x3FF);
  } else if (size >= 0x47800000) {  // 65536 or more
    half = 0x7C00;
  } else if (size < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    half = bits_of(float_of(size) + 0.5F) - bits_of(0.5F);
  } else {  // a carry out of the fraction is one of the exponent, up to infinity
    half = (size - (112U << 23) + 0xFFF + (size >> 13 & 1)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

struct F32 {
  float v;
  static constexpr int kLanes = 1;
  static F32 set1(float x) { return {x}; }
  static F32 load(const float* p) { return {*p}; }
  static F32 load_first(const float* p, int n) { return {n > 0 ? *p : 0.0F}; }
  static F32 widen(const std::uint16_t* p) { return {widen_half(*p)}; }
  void store(float* p) const { *p = v; }
  void narrow(std::uint16_t* p) const { *p = narrow_half(v); }
};
inline F32 add(F32 a, F32 b) { return {a.v + b.v}; }
inline F32 sub(F32 a, F32 b) { return {a.v - b.v}; }
inline F32 mul(F32 a, F32 b) { return {a.v * b.v}; }
inline F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
inline F32 abs(F32 a) { return {a.v < 0 ? -a.v : a.v}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {c.v - a.v * b.v}; }
inline std::uint32_t ge_mask(F32 a, F32 b) { return a.v >= b.v ? 1U : 0U; }
// out[i] = the sum of the lanes of sums[i], for eight of them.
inline void add_lanes(const F32* sums, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = sums[i].v;
}

struct F64 {
  double v;
  static constexpr int kLanes = 1;
  static F64 set1(double x) { return {x}; }
  static F64 load(const double* p) { return {*p}; }
  static F64 widen(const float* p) { return {static_cast<double>(*p)}; }
  static F64 widen(const double* p) { return load(p); }
  void store(double* p) const { *p = v; }
  void narrow(float* p) const { *p = static_cast<float>(v); }
};
inline F64 add(F64 a, F64 b) { return {a.v + b.v}; }
inline F64 sub(F64 a, F64 b) { return {a.v - b.v}; }
inline F64 mul(F64 a, F64 b) { return {a.v * b.v}; }
inline F64 abs(F64 a) { return {a.v < 0 ? -a.v : a.v}; }
inline F64 div(F64 a, F64 b) { return {a.v / b.v}; }
inline F64 min(F64 a, F64 b) { return {a.v < b.v ? a.v : b.v}; }
inline F64 max(F64 a, F64 b) { return {a.v > b.v ? a.v : b.v}; }
inline F64 pow2_of_shifted(F64 shifted) { return {pow2_of_shifted(shifted.v)}; }
// x where v > t, else 0.
inline F64 keep_greater(F64 v, F64 t, F64 x) { return {v.v > t.v ? x.v : 0.0}; }
inline LogParts<F64> log_parts(F64 x) {
  const LogParts<double> parts = log_parts(x.v);
  return {{parts.exponent}, {parts.mantissa}};
}

struct CodeRows {  // four codes of 4 rows, or of a query 4 times
  std::int8_t code[4][4];
  static CodeRows load(const std::int8_t* p) {
    CodeRows rows;
    std::memcpy(rows.code, p, sizeof rows.code);
    return rows;
  }
  static CodeRows broadcast(const std::uint8_t* p) {
    CodeRows rows;
    for (auto& row : rows.code) std::memcpy(row, p, sizeof row);
    return rows;
  }
};
struct CodeScores {
  std::int32_t v[4];
  static constexpr int kRows = 4;
  static CodeScores start(const std::int32_t* init, std::int32_t threshold) {
    CodeScores scores;
    for (int i = 0; i < 4; ++i) scores.v[i] = init[i] - threshold;
    return scores;
  }
  void store(std::int32_t* out) const { std::memcpy(out, v, sizeof v); }
  void add(CodeRows query, CodeRows rows) {
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) v[i] += query.code[i][j] * rows.code[i][j];
  }
};
struct CodeSigns {
  std::int32_t v[4];
  static CodeSigns of(const CodeScores& s) { return {{s.v[0], s.v[1], s.v[2], s.v[3]}}; }
  CodeSigns both(CodeSigns other) const {
    for (int i = 0; i < 4; ++i) other.v[i] &= v[i];
    return other;
  }
  std::uint32_t nonnegative() const {
    std::uint32_t mask = 0;
    for (int i = 0; i < 4; ++i) mask |= static_cast<std::uint32_t>(v[i] >= 0) << i;
    return mask;
  }
};
struct WideCodes {
  const std::int8_t* row;
  static constexpr int kCodes = 16;
  static WideCodes load(const std::int8_t* row) { return {row}; }
};
struct CodeSum {
  std::int32_t sum;
  static CodeSum zero() { return {0}; }
  void add(WideCodes codes, const std::int16_t* query) {
    for (int i = 0; i < WideCodes::kCodes; ++i) sum += codes.row[i] * query[i];
  }
  void add(CodeSum other) { sum += other.sum; }
  std::int32_t total() const { return sum; }
};

constexpr int kPanelVectors = 8;  // NR = 8
constexpr int kDotRows = 2;
constexpr int kDiffRows = 2;
constexpr int kHeadKeys = 1;
constexpr int kHeadColumns = 1;
constexpr int kCodeQueries = 4;
constexpr int kCodeVectors = 2;

}  // namespace
}  // namespace resmem
