// Residuals, weights and gates that live on a device: brought there, and added to.
#include "residuals.h"

#include "../cpp/residuals/damaged_rows.h"
#include "engine.h"

namespace resmem {
namespace device {
namespace {

// Makes the next state of arrays of rows.
class Growth {
 public:
  Growth(const MemorySource& source, const std::vector<std::size_t>& row_bytes,
         const RowArrays::State& before)
      : source_(source),
        stream_(source.stream.value_or(StreamHandle{})),
        row_bytes_(row_bytes),
        state_(before) {}

  RowArrays::State with(const std::vector<Placed<const void>>& given, std::size_t n) {
    const std::size_t capacity = n <= state_.capacity ? state_.capacity
                                 : state_.n == 0      ? n
                                                      : std::max(n, state_.n + state_.n / 2);
    for (std::size_t a = 0; a < given.size(); ++a) {
      if (given[a].on_device && source_.stream) {
        state_.arrays[a] = given[a].address;
        continue;
      }
      if (capacity > state_.capacity) enlarge(a, capacity);
      bring(a, given[a], n);
    }
    state_.capacity = capacity;
    state_.n = n;
    if (!source_.stream) wait(stream_);
    return std::move(state_);
  }

 private:
  void enlarge(std::size_t a, std::size_t capacity) {
    auto made = std::make_shared<const Memory>(source_, capacity * row_bytes_[a]);
    if (state_.n > 0)
      copy_within(stream_, made->of<void>(), state_.arrays[a], state_.n * row_bytes_[a]);
    state_.arrays[a] = made->of<void>();
    state_.kept[a] = std::move(made);
  }
  void bring(std::size_t a, const Placed<const void>& given, std::size_t n) const {
    const std::size_t done = state_.n * row_bytes_[a], left = (n - state_.n) * row_bytes_[a];
    char* const to = state_.kept[a]->of<char>() + done;
    const char* const from = static_cast<const char*>(given.address) + done;
    if (given.on_device)
      copy_within(stream_, to, from, left);
    else
      copy_in(stream_, to, from, left);
  }

  const MemorySource source_;
  const StreamHandle stream_;
  const std::vector<std::size_t>& row_bytes_;
  RowArrays::State state_;
};

// Refuses what is not one of the classes.
template <class T>
void check_classes(const T* classes, std::size_t first, std::size_t last, std::size_t columns,
                   const char* what) {
  for (std::size_t i = first; i < last; ++i)
    if (classes[i] < 0 || static_cast<std::uint64_t>(classes[i]) >= columns)
      throw DamagedRows(what, classes[i], columns);
}

}  // namespace

RowArrays::RowArrays(const MemorySource& source, std::vector<std::size_t> row_bytes)
    : source_(source), row_bytes_(std::move(row_bytes)) {
  State none;
  none.arrays.resize(row_bytes_.size());
  none.kept.resize(row_bytes_.size());
  state_ = std::make_shared<const State>(std::move(none));
}

std::shared_ptr<const RowArrays::State> RowArrays::now() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

std::size_t RowArrays::bytes() const {
  const auto state = now();
  std::size_t sum = 0;
  for (const auto& each : state->kept) sum += each == nullptr ? 0 : each->bytes();
  return sum;
}

void RowArrays::extend(const std::vector<Placed<const void>>& arrays, std::size_t n,
                       const Check& check) {
  const std::lock_guard<std::mutex> alone(growing_);
  const auto before = now();
  if (n <= before->n) return;
  check(before->n, n);
  const OnDevice here(source_.device);
  Growth growth(source_, row_bytes_, *before);
  auto grown = std::make_shared<const State>(growth.with(arrays, n));
  const std::lock_guard<std::mutex> lock(mutex_);
  state_ = std::move(grown);  // `before` keeps the other one until nothing is locked
}

DenseResiduals::DenseResiduals(const MemorySource& source, NumberType type, std::size_t columns)
    : RowArrays(source, {columns * bytes_of(type)}), type_(type), columns_(columns) {}

void DenseResiduals::extend(Placed<const void> residuals, std::size_t n) {
  RowArrays::extend({residuals}, n, [](std::size_t, std::size_t) {});
}

SparseResiduals::SparseResiduals(const MemorySource& source, NumberType type, std::size_t columns,
                                 std::size_t width)
    : RowArrays(source, {width * sizeof(std::int32_t), width * bytes_of(type), sizeof(float)}),
      type_(type),
      columns_(columns),
      width_(width) {}

void SparseResiduals::extend(const std::int32_t* index, const void* value, const float* rest,
                             std::size_t n) {
  RowArrays::extend({{index, false}, {value, false}, {rest, false}}, n,
                    [&](std::size_t first, std::size_t last) { check(index, first, last); });
}

void SparseResiduals::check(const std::int32_t* index, std::size_t first, std::size_t n) {
  check_classes(index, first * width_, n * width_, columns_, "index");
  std::vector<std::size_t> seen_in(columns_, n);  // the last row that has a class
  bool repeats = false;
  for (std::size_t row = first; row < n; ++row)
    for (std::size_t i = row * width_; i < (row + 1) * width_; ++i) {
      std::size_t& seen = seen_in[static_cast<std::size_t>(index[i])];
      repeats |= seen == row;
      seen = row;
    }
  if (repeats) repeats_ = true;
}

RowLabels::RowLabels(const MemorySource& source, std::size_t columns)
    : RowArrays(source, {sizeof(std::int64_t)}), columns_(columns) {}

void RowLabels::extend(const std::int64_t* labels, std::size_t n) {
  RowArrays::extend({{labels, false}}, n, [&](std::size_t first, std::size_t last) {
    check_classes(labels, first, last, columns_, "label");
  });
}

RowWeights::RowWeights(const MemorySource& source) : RowArrays(source, {sizeof(double)}) {}

void RowWeights::extend(const double* weights, std::size_t n) {
  RowArrays::extend({{weights, false}}, n, [](std::size_t, std::size_t) {});
}

DeviceGate::DeviceGate(int device, const std::vector<Step>& steps) : device_(device) {
  std::vector<double> numbers;
  for (const Step& step : steps) {
    numbers.insert(numbers.end(), step.edges.begin(), step.edges.end());
    numbers.insert(numbers.end(), step.factors.begin(), step.factors.end());
  }
  const OnDevice here(device);
  numbers_ = Memory({device, std::nullopt}, numbers.size() * sizeof(double));
  copy_in({}, numbers_.of<void>(), numbers.data(), numbers_.bytes());
  wait({});
  const double* next = numbers_.of<double>();
  for (const Step& step : steps) {
    steps_.push_back({step.feature, static_cast<std::uint32_t>(step.edges.size()), next,
                      next + step.edges.size()});
    next += step.edges.size() + step.factors.size();
  }
}

bool DeviceGate::looks_at(Feature feature) const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [=](const GateStep& step) { return step.feature == feature; });
}

}  // namespace device
}  // namespace resmem
