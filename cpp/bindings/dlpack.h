// Declares the ABI of DLPack (dmlc/dlpack, dlpack.h): tensors as they are described in capsules.
#pragma once

#include <cstdint>

namespace resmem::dlpack {

enum DeviceType : std::int32_t { kCpu = 1 };
enum DataTypeCode : std::uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kComplex = 5,
  kBool = 6
};

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

// Lies in a capsule called "dltensor", which whoever takes the tensor calls "used_dltensor".
struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor* self);
};

struct Version {
  std::uint32_t major, minor;
};

constexpr std::uint64_t kReadOnly = 1;  // a flag

// The same since version 1.0, in a capsule called "dltensor_versioned". Where the major version is
// another one, only the version and the deleter are known to be where they are here.
struct VersionedTensor {
  Version version;
  void* manager_context;
  void (*deleter)(VersionedTensor* self);
  std::uint64_t flags;
  Tensor tensor;
};

}  // namespace resmem::dlpack
