// Reads tensors of other libraries out of DLPack's capsules, and describes memory in such capsules.
// Memory is never looked at, but for that of bfloat16 tensors in the CPU's: a tensor may lie
// anywhere.
#include "dlpack.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "bindings.h"

namespace resmem {
namespace {

constexpr std::pair<const char*, dlpack::DataType> kDataTypes[] = {
    {"bool", {dlpack::kBool, 8, 1}},           {"int8", {dlpack::kInt, 8, 1}},
    {"int16", {dlpack::kInt, 16, 1}},          {"int32", {dlpack::kInt, 32, 1}},
    {"int64", {dlpack::kInt, 64, 1}},          {"uint8", {dlpack::kUInt, 8, 1}},
    {"uint16", {dlpack::kUInt, 16, 1}},        {"uint32", {dlpack::kUInt, 32, 1}},
    {"uint64", {dlpack::kUInt, 64, 1}},        {"float16", {dlpack::kFloat, 16, 1}},
    {"float32", {dlpack::kFloat, 32, 1}},      {"float64", {dlpack::kFloat, 64, 1}},
    {"bfloat16", {dlpack::kBfloat, 16, 1}},    {"complex64", {dlpack::kComplex, 64, 1}},
    {"complex128", {dlpack::kComplex, 128, 1}}};

std::string name_of(dlpack::DataType type) {
  for (const auto& [name, known] : kDataTypes)
    if (known.code == type.code && known.bits == type.bits && known.lanes == type.lanes)
      return name;
  return "code " + std::to_string(type.code) + " of " + std::to_string(type.bits) + " bits in " +
         std::to_string(type.lanes) + " lanes";
}

dlpack::DataType data_type_named(const std::string& name) {
  for (const auto& [known, type] : kDataTypes)
    if (name == known) return type;
  throw py::value_error("unknown dtype " + name);
}

bool makes_sense(const dlpack::Tensor& tensor) {
  if (tensor.ndim < 0 || (tensor.ndim > 0 && tensor.shape == nullptr)) return false;
  const std::int64_t *shape = tensor.shape, *end = shape + tensor.ndim;
  if (std::any_of(shape, end, [](std::int64_t size) { return size < 0; })) return false;
  return tensor.data != nullptr || std::find(shape, end, 0) != end;
}

// ---- tensors in memory of any kind -----------------------------------------------------------

// What is different about capsules with and without a version.
template <class Managed>
struct Form;

template <>
struct Form<dlpack::ManagedTensor> {
  static constexpr const char *name = "dltensor", *used = "used_dltensor";
  static void check_version(const dlpack::ManagedTensor&) {}
  static bool read_only(const dlpack::ManagedTensor&) { return false; }
  static void describe(dlpack::ManagedTensor&, bool) {}
};

template <>
struct Form<dlpack::VersionedTensor> {
  static constexpr const char *name = "dltensor_versioned", *used = "used_dltensor_versioned";
  static void check_version(const dlpack::VersionedTensor& managed) {
    if (managed.version.major != 1)
      throw py::value_error("its capsule is of DLPack " + std::to_string(managed.version.major) +
                            "." + std::to_string(managed.version.minor) + ", not 1");
  }
  static bool read_only(const dlpack::VersionedTensor& managed) {
    return (managed.flags & dlpack::kReadOnly) != 0;
  }
  static void describe(dlpack::VersionedTensor& managed, bool read_only) {
    managed.version = {1, 0};
    managed.flags = read_only ? dlpack::kReadOnly : 0;
  }
};

// Is a tensor that was taken out of its capsule, and goes back to who made it with this object.
class BorrowedTensor {
 public:
  explicit BorrowedTensor(py::capsule capsule) {
    if (!take<dlpack::VersionedTensor>(capsule) && !take<dlpack::ManagedTensor>(capsule))
      throw py::value_error("its capsule holds no tensor, or one that was taken before");
  }

  py::tuple device() const { return py::make_tuple(tensor_->device.type, tensor_->device.id); }
  std::uintptr_t address() const {
    return reinterpret_cast<std::uintptr_t>(tensor_->data) + tensor_->byte_offset;
  }
  py::tuple shape() const { return sizes(tensor_->shape); }
  py::object strides() const {
    return tensor_->strides == nullptr ? py::object(py::none()) : sizes(tensor_->strides);
  }
  std::string dtype() const { return name_of(tensor_->dtype); }
  bool read_only() const { return read_only_; }

 private:
  // Returns false, and leaves the capsule alone, if it does not hold a tensor of this form.
  template <class Managed>
  bool take(py::capsule& capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), Form<Managed>::name) == 0) return false;
    auto* managed = capsule.get_pointer<Managed>();
    Form<Managed>::check_version(*managed);
    if (!makes_sense(managed->tensor))
      throw py::value_error("its tensor has no memory, or sizes below 0");
    capsule.set_name(Form<Managed>::used);
    tensor_ = &managed->tensor;
    read_only_ = Form<Managed>::read_only(*managed);
    managed_ = {managed, [](void* self) {
                  const py::error_scope keeps_a_pending_error;
                  auto* returned = static_cast<Managed*>(self);
                  if (returned->deleter != nullptr) returned->deleter(returned);
                }};
    return true;
  }

  py::tuple sizes(const std::int64_t* numbers) const {
    py::tuple out(tensor_->ndim);
    for (int i = 0; i < tensor_->ndim; ++i) out[static_cast<std::size_t>(i)] = py::int_(numbers[i]);
    return out;
  }

  std::unique_ptr<void, void (*)(void*)> managed_{nullptr, nullptr};
  const dlpack::Tensor* tensor_ = nullptr;
  bool read_only_ = false;
};

// Keeps what a capsule's tensor points to.
template <class Managed>
struct Described {
  Managed managed{};
  std::vector<std::int64_t> shape, strides;
  py::object owner;
};

// Is called by whoever took the tensor, on any thread, perhaps when Python has ended.
template <class Managed>
void forget(Managed* managed) {
  if (Py_IsInitialized() == 0) return;
  const py::gil_scoped_acquire gil;
  delete static_cast<Described<Managed>*>(managed->manager_context);
}

template <class Managed>
void forget_untaken(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, Form<Managed>::name) == 0) return;
  forget(static_cast<Managed*>(PyCapsule_GetPointer(capsule, Form<Managed>::name)));
}

std::vector<std::int64_t> row_major(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

template <class Managed>
py::capsule describe(dlpack::Tensor tensor, std::vector<std::int64_t> shape,
                     std::vector<std::int64_t> strides, py::object owner, bool read_only) {
  auto kept = std::make_unique<Described<Managed>>();
  kept->shape = std::move(shape);
  kept->strides = std::move(strides);
  kept->owner = std::move(owner);
  tensor.ndim = static_cast<std::int32_t>(kept->shape.size());
  tensor.shape = kept->shape.data();
  tensor.strides = kept->strides.data();
  Form<Managed>::describe(kept->managed, read_only);
  kept->managed.tensor = tensor;
  kept->managed.manager_context = kept.get();
  kept->managed.deleter = &forget<Managed>;
  py::capsule capsule(&kept->managed, Form<Managed>::name, &forget_untaken<Managed>);
  kept.release();
  return capsule;
}

py::capsule make_dlpack(std::uintptr_t address, std::vector<std::int64_t> shape,
                        const std::string& dtype, std::pair<std::int32_t, std::int32_t> device,
                        py::object owner, bool versioned,
                        std::optional<std::vector<std::int64_t>> strides, bool read_only) {
  require(!strides || strides->size() == shape.size(), "one stride for each size");
  dlpack::Tensor tensor{};
  tensor.data = reinterpret_cast<void*>(address);
  tensor.device = {device.first, device.second};
  tensor.dtype = data_type_named(dtype);
  auto steps = strides ? std::move(*strides) : row_major(shape);
  const auto make =
      versioned ? &describe<dlpack::VersionedTensor> : &describe<dlpack::ManagedTensor>;
  return make(tensor, std::move(shape), std::move(steps), std::move(owner), read_only);
}

// ---- bfloat16 in the CPU's memory ------------------------------------------------------------

float widen_bfloat16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Copies an n-dimensional strided bfloat16 tensor out in row-major order.
void copy_bfloat16(const dlpack::Tensor& tensor, int axis, const std::uint16_t* from, float*& to) {
  if (axis == tensor.ndim) {
    *to++ = widen_bfloat16(*from);
    return;
  }
  std::int64_t stride = 1;
  if (tensor.strides != nullptr)
    stride = tensor.strides[axis];
  else
    for (int i = axis + 1; i < tensor.ndim; ++i) stride *= tensor.shape[i];
  for (std::int64_t i = 0; i < tensor.shape[axis]; ++i)
    copy_bfloat16(tensor, axis + 1, from + i * stride, to);
}

bool readable_bfloat16(const dlpack::Tensor& tensor) {
  return name_of(tensor.dtype) == "bfloat16" && tensor.device.type == dlpack::kCpu &&
         makes_sense(tensor);
}

// Reads what numpy.from_dlpack cannot, as NumPy has no bfloat16. Returns None, and leaves the
// capsule untouched, if it holds anything else than bfloat16 in CPU memory, was used before or
// makes no sense.
py::object bfloat16_from_dlpack(py::capsule capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor") == 0) return py::none();  // or has no name
  auto* managed = capsule.get_pointer<dlpack::ManagedTensor>();
  const dlpack::Tensor& tensor = managed->tensor;
  if (!readable_bfloat16(tensor)) return py::none();
  Array<float> out(std::vector<py::ssize_t>(tensor.shape, tensor.shape + tensor.ndim));
  float* to = out.mutable_data();
  if (out.size() > 0) {
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.data) + tensor.byte_offset;
    copy_bfloat16(tensor, 0, static_cast<const std::uint16_t*>(static_cast<const void*>(bytes)),
                  to);
  }
  capsule.set_name("used_dltensor");
  if (managed->deleter != nullptr) managed->deleter(managed);
  return std::move(out);
}

}  // namespace

void register_dlpack(py::module_& module) {
  using namespace py::literals;
  py::class_<BorrowedTensor>(
      module, "BorrowedTensor",
      "A tensor taken out of a DLPack capsule; it keeps its memory. ValueError if there is none.")
      .def(py::init<py::capsule>(), "capsule"_a)
      .def_property_readonly("device", &BorrowedTensor::device, "DLPack's device type, and id.")
      .def_property_readonly("address", &BorrowedTensor::address)
      .def_property_readonly("shape", &BorrowedTensor::shape)
      .def_property_readonly("strides", &BorrowedTensor::strides, "In elements; None: row-major.")
      .def_property_readonly("dtype", &BorrowedTensor::dtype)
      .def_property_readonly("read_only", &BorrowedTensor::read_only);
  module.def("make_dlpack", &make_dlpack, "address"_a, "shape"_a, "dtype"_a, "device"_a, "owner"_a,
             "versioned"_a = false, "strides"_a = py::none(), "read_only"_a = false,
             "A DLPack capsule about memory that lies anywhere and that the owner keeps.");
  module.def("bfloat16_from_dlpack", &bfloat16_from_dlpack, "capsule"_a,
             "A float32 copy of a CPU bfloat16 tensor, or None.");
}

}  // namespace resmem
