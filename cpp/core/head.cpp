#include "head.h"

#include <algorithm>
#include <vector>

namespace resmem {
namespace {

std::size_t blocks_of(std::size_t n, std::size_t block) { return (n + block - 1) / block; }

// Keys whose widened panel is held at once (every row of the layer is read once per panel).
constexpr std::size_t kPanelBytes = std::size_t{4} << 20;
// Rows of the layer that a task takes past its keys: they stay in the level-2 cache.
constexpr std::size_t kLayerBytes = std::size_t{128} << 10;
// Multiplications of a task: about a millisecond.
constexpr std::size_t kTaskProducts = std::size_t{1} << 22;

}  // namespace

// Three loops: panels of keys; tasks, a block of the layer times a block of the panel's keys; and
// inside a task the kernel, for a few keys that stay in the level-1 cache.
void head_logits(const LinearHead& head, std::size_t n, const KeySource& key,
                 const KernelTable& kernels, std::size_t threads, float* out,
                 Interrupt& interrupt) {
  const std::size_t d = head.d, ld = blocks_of(d, kPartials) * kPartials;
  const std::size_t step = kernels.head_keys;  // keys of a kernel call
  const std::size_t fit = kPanelBytes / (sizeof(double) * ld) / step * step;
  const std::size_t held = std::min(std::max(fit, step), blocks_of(n, step) * step);
  const std::size_t rows = std::clamp<std::size_t>(kLayerBytes / (sizeof(float) * d), 4,
                                                   std::max<std::size_t>(4, head.columns));
  const std::size_t keys = std::max(step, kTaskProducts / (rows * d) / step * step);
  const std::size_t layer_blocks = blocks_of(head.columns, rows);
  std::vector<double> panel(held * ld);
  std::vector<float> scratch(d);
  for (std::size_t first = 0; first < n; first += held) {
    const std::size_t count = std::min(held, n - first);
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(key(first + i, scratch.data()), d,
                  panel.begin() + static_cast<std::ptrdiff_t>(i * ld));
    const std::size_t tasks = layer_blocks * blocks_of(count, keys);
    parallel_for(tasks, threads, interrupt, [&](std::size_t task, bool) {
      const std::size_t row = task % layer_blocks * rows, begin = task / layer_blocks * keys;
      const std::size_t end = std::min(count, begin + keys);
      HeadArgs args{};
      args.ld = ld;
      args.weight = head.weight + row * d;
      args.bias = head.bias + row;
      args.d = d;
      args.columns = std::min(rows, head.columns - row);
      args.out_ld = head.columns;
      for (std::size_t i = begin; i < end; i += step) {
        args.panel = panel.data() + i * ld;
        args.keys = std::min(step, end - i);
        args.out = out + (first + i) * head.columns + row;
        kernels.head_logits(args);
      }
    });
  }
}

}  // namespace resmem
