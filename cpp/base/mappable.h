// Arrays that are kept beside rows, whether made here or mapped from a file, and a hash of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "aligned.h"

namespace resmem {

// Holds numbers of its own, or points to those of an owner that must outlive it (a mapped file).
template <class T>
class Mappable {
 public:
  Mappable() = default;
  Mappable(Mappable&&) noexcept = default;
  Mappable& operator=(Mappable&&) noexcept = default;

  void own(AlignedVector<T>&& values) {
    own_ = std::move(values);
    map(own_.data(), own_.size());
  }
  void map(const T* data, std::size_t size) {
    data_ = data;
    size_ = size;
  }
  const T& operator[](std::size_t i) const { return data_[i]; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  AlignedVector<T> own_;
  const T* data_ = nullptr;
  std::size_t size_ = 0;
};

// Computes the FNV-1a hash of all bytes taken so far.
class Digest {
 public:
  template <class Array>
  void take(const Array& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (std::size_t i = 0; i < values.size() * sizeof(values[0]); ++i)
      hash_ = (hash_ ^ bytes[i]) * 0x100000001B3;
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xCBF29CE484222325;
};

}  // namespace resmem
