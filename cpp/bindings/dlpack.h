// Declares the part of the DLPack 0.x ABI that reading a CPU tensor takes (dmlc/dlpack, dlpack.h).
#pragma once

#include <cstdint>

namespace resmem::dlpack {

enum DeviceType : std::int32_t { kCpu = 1 };
enum DataTypeCode : std::uint8_t { kBfloat = 4 };

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor* self);
};

}  // namespace resmem::dlpack
