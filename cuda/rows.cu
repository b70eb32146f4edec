// Rows that live on a device, as many as may: brought there, coded in parts, and added to.
#include "coding.h"
#include "slabs.h"
#include "states.cuh"

namespace resmem {
namespace device {
DeviceRows::DeviceRows(const MemorySource& source, NumberType type, std::size_t d, Metric metric,
                       std::size_t least_coded)
    : source_(source),
      type_(type),
      d_(d),
      metric_(metric),
      least_coded_(least_coded),
      resident_(std::make_shared<ResidentRows>()) {}

DeviceRows::~DeviceRows() = default;

std::shared_ptr<const ResidentRows> DeviceRows::resident() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return resident_;
}

// Whoever still uses what was there before keeps it; the last one gives it back.
void DeviceRows::publish(ResidentRows next) {
  auto made = std::make_shared<const ResidentRows>(std::move(next));
  const std::lock_guard<std::mutex> lock(mutex_);
  resident_.swap(made);
}

std::size_t DeviceRows::n() const { return resident()->n; }

std::size_t DeviceRows::staying() const { return resident()->staying; }

namespace {

constexpr std::size_t kNoLimit = SIZE_MAX / 2;
// A row has an id, a version of removal, a time and a group, or may get them.
constexpr std::size_t kRowFacts = 4 * sizeof(std::int64_t);
constexpr std::size_t kMostReserve = std::size_t{1} << 30;  // bytes that are left to searches

std::size_t held_bytes(const std::shared_ptr<const Memory>& memory) {
  return memory == nullptr ? 0 : memory->bytes();
}

std::size_t held_bytes(const ResidentRows& rows) {
  std::size_t sum = 0;
  for (const auto* each :
       {&rows.kept_keys, &rows.ids, &rows.died, &rows.times.values, &rows.groups.values})
    sum += held_bytes(*each);
  for (const auto& part : rows.parts) sum += part->bytes();
  return sum;
}

}  // namespace

std::size_t DeviceRows::bytes() const { return held_bytes(*resident()); }

namespace {

// Brings rows to a device and codes them.
class Extension {
 public:
  Extension(const MemorySource& source, NumberType type, std::size_t d, Metric metric,
            std::size_t least_coded, const ResidentRows& before)
      : source_(source),
        stream_(source.stream.value_or(StreamHandle{})),
        type_(type),
        d_(d),
        kind_(kind_of(metric)),
        least_coded_(least_coded),
        rows_(before) {}

  ResidentRows with(const GivenRows& given) {
    bring(given);
    rows_.first_id = given.first_id;
    rows_.n = given.n;
    code_parts();
    if (!source_.stream) wait(stream_);
    return std::move(rows_);
  }

 private:
  void bring(const GivenRows& given) {
    const std::size_t width = d_ * bytes_of(type_);
    if (given.on_device && source_.stream) {
      rows_.keys = given.keys;  // borrowed
      rows_.staying = given.n;
    } else {
      const Room room = room_for(given);
      copy(rows_.kept_keys, given.keys, given.on_device, rows_.staying, room, width);
      rows_.keys = rows_.kept_keys != nullptr ? rows_.kept_keys->of<void>() : nullptr;
      rows_.staying = room.rows;
    }
    if (rows_.staying < given.n) {
      rows_.host_keys = static_cast<const char*>(given.keys);
      rows_.keeper = given.keeper;
    }
    const Room all = {given.n, kNoLimit};
    if (given.ids != nullptr) copy(rows_.ids, given.ids, false, rows_.n, all, sizeof(std::int64_t));
    if (rows_.died != nullptr) grow(rows_.died, rows_.n, all, sizeof(std::int64_t));
  }

  // Rows that stay on the device, and for how many there may be room at most.
  struct Room {
    std::size_t rows, most;
  };

  // Returns how many rows stay: all, or else those that are there, or as many as fit at first.
  Room room_for(const GivenRows& given) const {
    if (given.on_device) return {given.n, kNoLimit};
    const std::size_t most = given.most_bytes ? *given.most_bytes : what_is_free();
    if (rows_.staying == rows_.n && fits(given.n, most))
      return {given.n, given.most_bytes ? given.n : kNoLimit};
    const RowBytes row = RowBytes::of(type_, d_, kind_);
    const std::size_t least = kTile * (kSlabs * row.key + row.codes + row.coding);
    if (most < least) throw OutOfDeviceMemory(least, most, most);
    const std::size_t slabs = std::max(least, std::min(most / kSlabShare, kMostSlabBytes));
    if (rows_.staying > 0) return {rows_.staying, rows_.staying};
    const std::size_t facts = kRowFacts * given.n;
    const std::size_t rows = most - slabs < facts ? 0 : (most - slabs - facts) / bytes_of_row();
    return {std::min(rows, given.n), std::min(rows, given.n)};
  }
  std::size_t bytes_of_row() const {
    const RowBytes row = RowBytes::of(type_, d_, kind_);
    return row.key + row.codes + row.coding;
  }
  // Tells whether all n rows fit, at the moment when most is held: where rows were there before,
  // their keys and codes are there twice.
  bool fits(std::size_t n, std::size_t most) const {
    const std::size_t facts = kRowFacts * n, twice = held_bytes(rows_);
    return facts + twice <= most && n <= (most - facts - twice) / bytes_of_row();
  }
  std::size_t what_is_free() const {
    const std::size_t free = free_memory();
    return held_bytes(rows_) + free - std::min(free / 8, kMostReserve);
  }

  // Makes room for more elements: for half as many again, as more may come, where that is allowed.
  void grow(std::shared_ptr<const Memory>& memory, std::size_t there, const Room& room,
            std::size_t width) {
    if (room.rows * width <= held_bytes(memory)) return;
    const std::size_t capacity =
        std::min(std::max(room.rows, there + there / 2), std::max(room.rows, room.most));
    auto made = std::make_shared<const Memory>(source_, capacity * width);
    fill_zeros(stream_, made->of<void>(), made->bytes());
    if (memory != nullptr)
      copy_within(stream_, made->of<void>(), memory->of<void>(), there * width);
    memory = std::move(made);
  }
  // Copies the elements behind those that are there.
  void copy(std::shared_ptr<const Memory>& memory, const void* from, bool on_device,
            std::size_t there, const Room& room, std::size_t width) {
    grow(memory, there, room, width);
    if (room.rows == there) return;
    const std::size_t done = there * width, left = (room.rows - there) * width;
    char* const to = memory->of<char>() + done;
    const char* const source = static_cast<const char*>(from) + done;
    if (on_device)
      copy_within(stream_, to, source, left);
    else
      copy_in(stream_, to, source, left);
  }

  // Codes the rows behind those of the parts. A part that is no more than twice as large is coded
  // anew together with them, so that parts stay few.
  void code_parts() {
    std::size_t first = rows_.parts.empty() ? 0 : rows_.parts.back()->first + rows_.parts.back()->n;
    const std::size_t n = rows_.staying;
    while (!rows_.parts.empty() && rows_.parts.back()->n <= 2 * (n - first) &&
           n - rows_.parts.back()->first <= kMostPartRows) {
      first = rows_.parts.back()->first;
      rows_.parts.pop_back();
    }
    for (; first < n; first += rows_.parts.back()->n) {
      const auto part = std::make_shared<Part>();
      part->first = first;
      part->n = std::min(n - first, kMostPartRows);
      part->coded = part->n >= least_coded_ && can_code(kind_, d_);
      if (part->coded) code(*part);
      rows_.parts.push_back(part);
    }
  }
  void code(Part& part) const {
    const auto d = static_cast<unsigned>(d_);
    reserve_codes(part, source_, part.n, d, kind_);
    const Memory memory(source_, CodingArrays::bytes(part.n));
    Arrays arrays(memory.of<void>());
    const char* rows = static_cast<const char*>(rows_.keys) + part.first * d_ * bytes_of(type_);
    code_rows(stream_, type_, rows, part.n, d, kind_, part, CodingArrays::in(arrays, part.n));
  }

  const MemorySource source_;
  const StreamHandle stream_;
  const NumberType type_;
  const std::size_t d_;
  const KeyKind kind_;
  const std::size_t least_coded_;
  ResidentRows rows_;
};

}  // namespace

void DeviceRows::extend(const GivenRows& given) {
  const std::lock_guard<std::mutex> alone(growing_);
  const auto before = resident();
  if (given.n <= before->n) return;
  const OnDevice here(source_.device);
  publish(Extension(source_, type_, d_, metric_, least_coded_, *before).with(given));
}

std::size_t DeviceRows::known(Attribute attribute) const {
  return resident()->attribute(attribute).n;
}

void DeviceRows::bring(Attribute attribute, const std::int64_t* values, std::size_t n) {
  const std::lock_guard<std::mutex> alone(growing_);
  ResidentRows now = *resident();
  ResidentAttribute& held = attribute == Attribute::time ? now.times : now.groups;
  if (n <= held.n) return;
  const OnDevice here(source_.device);
  const StreamHandle stream = source_.stream.value_or(StreamHandle{});
  constexpr std::size_t kWidth = sizeof(std::int64_t);
  if (held.values == nullptr || held.values->bytes() < n * kWidth) {
    const std::size_t capacity = std::max(n, held.n + held.n / 2);  // as more may come
    const auto larger = std::make_shared<const Memory>(source_, capacity * kWidth);
    if (held.n > 0)
      copy_within(stream, larger->of<void>(), held.values->of<void>(), held.n * kWidth);
    held.values = larger;
  }
  copy_in(stream, held.values->of<std::int64_t>() + held.n, values + held.n, (n - held.n) * kWidth);
  if (!source_.stream) wait(stream);
  held.n = n;
  publish(std::move(now));
}

void DeviceRows::remove(const std::int64_t* rows, const std::int64_t* stamps, std::size_t count) {
  if (count == 0) return;
  const std::lock_guard<std::mutex> alone(growing_);
  const OnDevice here(source_.device);
  const StreamHandle stream = source_.stream.value_or(StreamHandle{});
  ResidentRows now = *resident();
  if (now.died == nullptr) {
    now.died = std::make_shared<const Memory>(source_, now.n * sizeof(std::int64_t));
    fill_zeros(stream, now.died->of<void>(), now.died->bytes());
  }
  const std::size_t bytes = count * sizeof(std::int64_t);
  const Memory numbers(source_, 2 * bytes);
  auto* const on_device = numbers.of<std::int64_t>();
  copy_in(stream, on_device, rows, bytes);
  copy_in(stream, on_device + count, stamps, bytes);
  simt::launch(threads_for("stamp_rows", count, kStateThreads), stream, &stamp_rows, on_device,
               on_device + count, count, now.died->of<std::int64_t>());
  if (!source_.stream) wait(stream);
  publish(std::move(now));
}

}  // namespace device
}  // namespace resmem
