// The one source of all kernel tables. Each isa/<isa>.cpp includes an isa/simd_<isa>.h, whose
// vector types the subjects in body/ are written in, and then this file, which makes the table.
// Everything lives in an unnamed namespace, and no standard template is instantiated here, so no
// code compiled for a newer ISA can leak into the rest of the library.
#pragma once

#include "table.h"
#include "body/tiles-inl.h"
#include "body/stream-inl.h"
#include "body/stage-inl.h"
#include "body/codes-inl.h"
#include "body/exact-inl.h"
#include "body/weighted_sum-inl.h"
#include "body/tuning-inl.h"
#include "body/head-inl.h"
#include "body/numbers-inl.h"

namespace resmem {
namespace {

constexpr int common_multiple(int a, int b) {
  int m = a;
  while (m % b != 0) m += a;
  return m;
}

constexpr KernelTable make_table(const char* name, bool emulated) {
  KernelTable table{};
  table.name = name;
  table.emulated = emulated;
  table.query_lanes = static_cast<std::uint32_t>(kNR);
  table.row_step = static_cast<std::uint32_t>(common_multiple(kDotRows, kDiffRows));
  table.head_keys = static_cast<std::uint32_t>(kHeadKeys);
  fill_tiles(table.filter);
  fill_stream(table.filter);
  fill_stage(table.filter);
  fill_codes(table.codes);
  fill_exact(table.exact);
  fill_weighted_sum(table.sums);
  fill_tuning(table.sums);
  fill_head(table.sums);
  fill_numbers(table.numbers);
  return table;
}

template <class... Function>
constexpr bool none_null(Function... function) {
  return ((function != nullptr) && ...);
}

// A structured binding must name every member, so a kernel that is added to a struct and not to
// its line here does not compile, and one that no function above fills fails the assertion.
constexpr bool is_complete(const KernelTable& table) {
  const auto& [scan_dot, scan_diff, stream, staged, unit, staged64, largest, largest64] =
      table.filter;
  const auto& [code_scan, code_score, code_dot] = table.codes;
  const auto& [distance, distances, distance64, dot32, dot_64, sum, e, l, soft] = table.exact;
  const auto& [weights, one_sum, some_sums, clipped, totals, shift, logits] = table.sums;
  const auto& [widen16, widen_b16, narrow16, narrow_b16] = table.numbers;
  return none_null(scan_dot, scan_diff, stream, staged, unit, staged64, largest, largest64) &&
         none_null(code_scan, code_score, code_dot) &&
         none_null(distance, distances, distance64, dot32, dot_64, sum, e, l, soft) &&
         none_null(weights, one_sum, some_sums, clipped, totals, shift, logits) &&
         none_null(widen16, widen_b16, narrow16, narrow_b16);
}
// With UndefinedBehaviorSanitizer, which comes with AddressSanitizer here, gcc takes no function's
// address for a constant that is not null; every other build checks.
#if !defined(__SANITIZE_ADDRESS__)
static_assert(is_complete(make_table("", false)), "a kernel of the table is left null");
#endif

}  // namespace
}  // namespace resmem
