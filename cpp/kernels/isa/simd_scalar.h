// One float at a time: the reference the vector tables are held against, and the fallback.
#pragma once

#include <cstdint>

#include "portable_codes.h"
#include "portable_float16.h"
#include "scalar_float64.h"

namespace resmem {
namespace {

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

constexpr int kPanelVectors = 8;  // NR = 8
constexpr int kDotRows = 2;
constexpr int kDiffRows = 2;
constexpr int kHeadKeys = 1;
constexpr int kHeadColumns = 1;

}  // namespace
}  // namespace resmem
