// Coded rows in plain integers, four rows and sums of 32 bits at a time, for an ISA that has no
// instructions for them. ../README.md says what each type means.
#pragma once

#include <cstdint>
#include <cstring>

namespace resmem {
namespace {

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

constexpr int kCodeQueries = 4;
constexpr int kCodeVectors = 2;

}  // namespace
}  // namespace resmem
