// One float at a time: the reference the vector tables are held against, and the fallback.
#pragma once

#include <cstdint>
#include <cstring>

namespace resmem {
namespace {

struct F32 {
  float v;
  static constexpr int kLanes = 1;
  static F32 set1(float x) { return {x}; }
  static F32 load(const float* p) { return {*p}; }
  static F32 load_first(const float* p, int n) { return {n > 0 ? *p : 0.0F}; }
  void store(float* p) const { *p = v; }
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
  void store(double* p) const { *p = v; }
  void narrow(float* p) const { *p = static_cast<float>(v); }
};
inline F64 add(F64 a, F64 b) { return {a.v + b.v}; }
inline F64 sub(F64 a, F64 b) { return {a.v - b.v}; }
inline F64 mul(F64 a, F64 b) { return {a.v * b.v}; }
inline F64 div(F64 a, F64 b) { return {a.v / b.v}; }
inline F64 min(F64 a, F64 b) { return {a.v < b.v ? a.v : b.v}; }
inline F64 max(F64 a, F64 b) { return {a.v > b.v ? a.v : b.v}; }
inline F64 pow2_of_shifted(F64 shifted) {
  std::uint64_t bits;
  std::memcpy(&bits, &shifted.v, sizeof bits);
  bits = (bits + 1023) << 52;
  double out;
  std::memcpy(&out, &bits, sizeof out);
  return {out};
}

constexpr int kPanelVectors = 8;  // NR = 8
constexpr int kDotRows = 2;
constexpr int kDiffRows = 2;

}  // namespace
}  // namespace resmem
