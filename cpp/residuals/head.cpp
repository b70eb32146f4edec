#include "head.h"

#include <algorithm>
#include <vector>

namespace resmem {
namespace {

std::size_t blocks_of(std::size_t n, std::size_t block) { return (n + block - 1) / block; }

// A panel of widened keys has this size. Every row of the layer is read once per panel.
constexpr std::size_t kPanelBytes = std::size_t{4} << 20;
// The rows of the layer that a task takes past its keys have this size, and so stay in the level-2
// cache.
constexpr std::size_t kLayerBytes = std::size_t{128} << 10;
// A task has so many multiplications, which take about a millisecond.
constexpr std::size_t kTaskProducts = std::size_t{1} << 22;

// Panels are made of whole cache lines, so that no vector lies on two of them.
struct alignas(64) Line {
  double values[kPartials];
};

// A panel holds some keys, widened once for all threads.
class Panel {
 public:
  Panel(std::size_t d, std::size_t keys)
      : d_(d), lines_(blocks_of(d, kPartials)), data_(keys * lines_) {}

  std::size_t ld() const { return lines_ * kPartials; }
  const double* key(std::size_t i) const { return data_[i * lines_].values; }

  // key(i, scratch) gives key number i, as float or as double.
  template <class Key>
  void fill(std::size_t first, std::size_t count, const Key& key, const Execution& execution) {
    parallel_for_rows(count, d_, execution.threads, execution.interrupt,
                      [&](std::size_t begin, std::size_t end, bool) {
                        std::vector<float> scratch(d_);
                        for (std::size_t i = begin; i < end; ++i)
                          std::copy_n(key(first + i, scratch.data()), d_, data_[i * lines_].values);
                      });
  }

 private:
  std::size_t d_, lines_;
  std::vector<Line> data_;
};

// There are three loops: over panels of keys; over tasks, each a block of the layer times a block
// of the panel's keys; and inside a task over calls of the kernel, each for a few keys that stay in
// the level-1 cache.
template <class Key>
void logits_of(const LinearHead& head, std::size_t n, const Key& key, const Execution& execution,
               float* out) {
  const std::size_t d = head.d,
                    step = execution.kernels.head_keys;  // keys that one call of the kernel takes
  const std::size_t fit = std::max(step, kPanelBytes / (sizeof(double) * d) / step * step);
  const std::size_t held = std::min(fit, blocks_of(n, step) * step);
  const std::size_t rows =
      std::min(head.columns, std::max<std::size_t>(4, kLayerBytes / (sizeof(float) * d) / 4 * 4));
  const std::size_t keys = std::max(step, kTaskProducts / (rows * d) / step * step);
  const std::size_t layer_blocks = blocks_of(head.columns, rows);
  Panel panel(d, held);
  for (std::size_t first = 0; first < n; first += held) {
    const std::size_t count = std::min(held, n - first);
    panel.fill(first, count, key, execution);
    const std::size_t tasks = layer_blocks * blocks_of(count, keys);
    parallel_for(tasks, execution.threads, execution.interrupt, [&](std::size_t task, bool) {
      const std::size_t row = task % layer_blocks * rows, begin = task / layer_blocks * keys;
      const std::size_t end = std::min(count, begin + keys);
      HeadArgs args{};
      args.ld = panel.ld();
      args.weight = head.weight + row * d;
      args.bias = head.bias + row;
      args.d = d;
      args.columns = std::min(rows, head.columns - row);
      args.out_ld = head.columns;
      for (std::size_t i = begin; i < end; i += step) {
        args.panel = panel.key(i);
        args.keys = std::min(step, end - i);
        args.out = out + (first + i) * head.columns + row;
        execution.kernels.sums.head_logits(args);
      }
    });
  }
}

}  // namespace

void head_logits(const LinearHead& head, std::size_t n, const KeySource& key,
                 const Execution& execution, float* out) {
  logits_of(head, n, key, execution, out);
}

void head_logits(const LinearHead& head, std::size_t n, const double* keys,
                 const Execution& execution, float* out) {
  const auto key = [&](std::size_t i, float*) { return keys + i * head.d; };
  logits_of(head, n, key, execution, out);
}

}  // namespace resmem
