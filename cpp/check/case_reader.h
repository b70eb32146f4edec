// Reads the file of cases, number by number, as tests/core_cases.py writes and documents it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "../rows/numbers.h"

namespace resmem {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Integers = std::vector<std::int64_t>;
using Halves = std::vector<std::uint16_t>;

// Throws std::runtime_error unless the condition holds. It holds for every file that was written
// whole.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(std::string("malformed file: ") + message);
}

inline std::size_t times(std::size_t a, std::size_t b) {
  require(b == 0 || a <= std::numeric_limits<std::size_t>::max() / b, "a shape overflows");
  return a * b;
}

// Owns what Numbers points to.
struct StoredVector {
  NumberType type = NumberType::float32;
  Floats floats;
  Halves halves;
  std::size_t size() const { return type == NumberType::float32 ? floats.size() : halves.size(); }
  Numbers numbers() const {
    if (type == NumberType::float32) return {floats.data(), type};
    return {halves.data(), type};
  }
};

// Throws where the file is cut off or its sizes contradict each other.
class Reader {
 public:
  explicit Reader(const std::vector<char>& bytes) : bytes_(bytes) {}
  bool at_end() const { return at_ == bytes_.size(); }
  template <class T>
  T value() {
    require(sizeof(T) <= bytes_.size() - at_, "it is cut off");
    return take<T>(1)[0];
  }
  std::size_t size() { return static_cast<std::size_t>(value<std::uint64_t>()); }
  template <class T>
  std::vector<T> array() {
    const std::size_t count = size();
    require(count <= (bytes_.size() - at_) / sizeof(T), "an array is cut off");
    return take<T>(count);
  }
  template <class T>
  std::vector<T> array(std::size_t count) {
    std::vector<T> result = array<T>();
    require(result.size() == count, "an array has not the size of its shape");
    return result;
  }
  NumberType type() {
    const std::size_t code = size();
    require(code <= 2, "unknown type of numbers");
    return static_cast<NumberType>(code);
  }
  StoredVector numbers(std::size_t count) {
    StoredVector result;
    result.type = type();
    if (result.type == NumberType::float32)
      result.floats = array<float>(count);
    else
      result.halves = array<std::uint16_t>(count);
    return result;
  }
  std::string text() {
    const std::vector<char> bytes = array<char>();
    return {bytes.begin(), bytes.end()};
  }

 private:
  // The numbers are copied, so that memory checkers see a read past the end.
  template <class T>
  std::vector<T> take(std::size_t count) {
    std::vector<T> result(count);
    if (count > 0) std::memcpy(result.data(), bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return result;
  }

  const std::vector<char>& bytes_;
  std::size_t at_ = 0;
};

}  // namespace resmem
