#include "../../../base/rounding.h"
#include "../../../residuals/head.h"
#include "steps.h"

namespace resmem {

void project(const RowPoints& rows, const Projection& projection,
             const std::vector<std::size_t>& chosen, Role role, Projected& result) {
  const Execution& execution = rows.execution();
  const std::size_t axes = projection.axes, d = projection.d, width = projection.coordinates();
  const LinearHead layer{projection.weight.data(), projection.bias.data(), axes, d, 1};
  std::vector<float> out(chosen.size() * axes);
  head_logits(
      layer, chosen.size(),
      [&](std::size_t i, float* scratch) {
        double off;
        return rows.point(chosen[i], scratch, &off, role);
      },
      execution, out.data());
  result.phi.resize(chosen.size() * width);
  result.slack.resize(chosen.size());
  parallel_for_rows(chosen.size(), d + axes, execution.threads, execution.interrupt,
                    [&](std::size_t first, std::size_t last, bool) {
                      std::vector<float> scratch(d);
                      double off;
                      for (std::size_t i = first; i < last; ++i) {
                        const float* x = rows.point(chosen[i], scratch.data(), &off, role);
                        const double slack = projection.map(x, &out[i * axes], execution.kernels,
                                                            &result.phi[i * width]);
                        result.slack[i] = round_up(off + slack);
                      }
                    });
}

}  // namespace resmem
