// Rows that live on a device: brought there, coded in parts, and added to.
#include "arrange.cuh"
#include "engine.h"
#include "states.cuh"

namespace resmem {
namespace device {
namespace {

// What codes the rows of one part.
template <class T>
class Coding {
 public:
  Coding(const MemorySource& source, StreamHandle stream, const T* rows, std::size_t n, unsigned d,
         KeyKind kind)
      : source_(source),
        stream_(stream),
        rows_(rows),
        n_(n),
        d_(d),
        kind_(kind),
        depth_(depth_of(point_dimensions(kind, d))) {}

  void fill(Part& part) const {
    part.offset = Memory(source_, point_dimensions(kind_, d_) * sizeof(double));
    part.largest_square = Memory(source_, sizeof(std::uint64_t));
    part.codes = Memory(source_, n_ * depth_);
    part.facts = Memory(source_, n_ * sizeof(CodeFacts));
    part.tiles = Memory(source_, blocks_for(n_, kTile) * sizeof(TileFacts));
    find_offset(part);
    Arrays counted;
    workspace(counted);
    const Memory memory(source_, counted.used());
    Arrays arrays(memory.of<void>());
    const auto [facts, sorting] = workspace(arrays);
    CodeArgs<T> args = arguments(part);
    args.facts = facts;
    code(stream_, args);
    args.order = arranged(stream_, facts, n_, depth_, false, sorting);
    args.codes = part.codes.of<std::int8_t>();
    args.facts = part.facts.of<CodeFacts>();
    code(stream_, args);
    simt::launch(threads_for("describe_tiles", std::size_t{blocks_for(n_, kTile)} * simt::kWarp,
                             kArrangeThreads),
                 stream_, &describe_tiles, args.facts, static_cast<std::uint32_t>(n_),
                 part.tiles.of<TileFacts>());
    part.coded = true;
  }

 private:
  std::pair<CodeFacts*, Sorting> workspace(Arrays& arrays) const {
    CodeFacts* facts = arrays.next<CodeFacts>(n_);
    return {facts, Sorting::in(arrays, n_)};
  }

  CodeArgs<T> arguments(const Part& part) const {
    CodeArgs<T> args = {};
    args.vectors = rows_;
    args.n = n_;
    args.d = d_;
    args.kind = kind_;
    args.largest_square = part.largest_square.of<std::uint64_t>();
    args.offset = part.offset.of<double>();
    return args;
  }

  void find_offset(const Part& part) const {
    const std::size_t sampled = std::min<std::size_t>(n_, kOffsetRows);
    auto* largest = part.largest_square.of<std::uint64_t>();
    fill_zeros(stream_, largest, sizeof *largest);
    if (kind_ == KeyKind::inner_product) square(n_, nullptr, largest);
    const Memory squares(source_,
                         kind_ == KeyKind::squared_distance ? 0 : sampled * sizeof(double));
    if (squares.bytes() > 0) square(sampled, squares.of<double>(), nullptr);
    simt::launch(threads_for("mean_point", point_dimensions(kind_, d_), kCodeThreads), stream_,
                 &mean_point<T>, rows_, n_, sampled, d_, kind_, squares.of<double>(), largest,
                 part.offset.of<double>());
  }
  void square(std::size_t count, double* squares, std::uint64_t* largest) const {
    simt::launch(threads_for("square_rows", count * simt::kWarp, kCodeThreads), stream_,
                 &square_rows<T>, rows_, n_, count, d_, squares, largest);
  }

  const MemorySource source_;
  const StreamHandle stream_;
  const T* const rows_;
  const std::size_t n_;
  const unsigned d_;
  const KeyKind kind_;
  const unsigned depth_;
};

}  // namespace

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

std::size_t DeviceRows::bytes() const {
  const auto now = resident();
  std::size_t sum = 0;
  for (const auto* each :
       {&now->kept_keys, &now->ids, &now->died, &now->times.values, &now->groups.values})
    if (*each != nullptr) sum += (*each)->bytes();
  for (const auto& part : now->parts) sum += part->bytes();
  return sum;
}

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
      rows_.capacity = given.n;
    } else {
      grow(given.n, width);
      copy(rows_.kept_keys, given.keys, given.on_device, given.n, width);
      rows_.keys = rows_.kept_keys->of<void>();
    }
    if (given.ids != nullptr) copy(rows_.ids, given.ids, false, given.n, sizeof(std::int64_t));
  }

  // Makes room for n rows: more than that if some were there before, as more may come.
  void grow(std::size_t n, std::size_t width) {
    if (n <= rows_.capacity) return;
    const std::size_t capacity = rows_.n == 0 ? n : std::max(n, rows_.n + rows_.n / 2);
    larger(rows_.kept_keys, capacity, width);
    if (rows_.ids != nullptr) larger(rows_.ids, capacity, sizeof(std::int64_t));
    if (rows_.died != nullptr) larger(rows_.died, capacity, sizeof(std::int64_t));
    rows_.capacity = capacity;
  }
  void larger(std::shared_ptr<const Memory>& memory, std::size_t capacity, std::size_t width) {
    auto made = std::make_shared<const Memory>(source_, capacity * width);
    fill_zeros(stream_, made->of<void>(), made->bytes());
    if (memory != nullptr)
      copy_within(stream_, made->of<void>(), memory->of<void>(), rows_.n * width);
    memory = std::move(made);
  }
  // Copies what is not there yet of n elements.
  void copy(std::shared_ptr<const Memory>& memory, const void* from, bool on_device, std::size_t n,
            std::size_t width) {
    if (memory == nullptr) larger(memory, rows_.capacity, width);
    const std::size_t done = rows_.n * width, left = (n - rows_.n) * width;
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
    while (!rows_.parts.empty() && rows_.parts.back()->n <= 2 * (rows_.n - first) &&
           rows_.n - rows_.parts.back()->first <= kMostPartRows) {
      first = rows_.parts.back()->first;
      rows_.parts.pop_back();
    }
    for (; first < rows_.n; first += rows_.parts.back()->n) {
      const auto part = std::make_shared<Part>();
      part->first = first;
      part->n = std::min(rows_.n - first, kMostPartRows);
      if (part->n >= least_coded_ &&
          depth_of(point_dimensions(kind_, static_cast<unsigned>(d_))) <= kMostDimensions)
        with_type(type_, [&](const auto* none) {
          using T = std::remove_const_t<std::remove_pointer_t<decltype(none)>>;
          const T* rows = static_cast<const T*>(rows_.keys) + first * d_;
          Coding<T>(source_, stream_, rows, part->n, static_cast<unsigned>(d_), kind_).fill(*part);
        });
      rows_.parts.push_back(part);
    }
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
    const auto larger = std::make_shared<const Memory>(source_, now.capacity * kWidth);
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
    now.died = std::make_shared<const Memory>(source_, now.capacity * sizeof(std::int64_t));
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
