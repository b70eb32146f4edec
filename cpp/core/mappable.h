// Arrays that are kept beside rows: made here, or mapped from a file.
#pragma once

#include <cstddef>
#include <utility>

#include "aligned.h"

namespace resmem {

// Numbers of its own, or of whoever keeps them as long as this lives (a mapped file).
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

}  // namespace resmem
