#include <algorithm>
#include <cmath>
#include <limits>

#include "../../../base/rounding.h"
#include "steps.h"

namespace resmem {
namespace {

// The steps reach a tenth farther than the sample does, as other rows may be larger.
std::vector<float> steps_for(const PointSample& sample) {
  const std::size_t d = sample.offset.size();
  std::vector<float> steps(d);
  for (std::size_t p = 0; p < d; ++p) {
    double largest = 0;
    for (std::size_t i = 0; i < sample.count; ++i)
      largest = std::max(largest, std::fabs(sample.centred[i * d + p]));
    steps[p] = static_cast<float>(largest * 1.1 / 127);
  }
  return steps;
}

// How large the codes of one row are, or the largest codes of several rows.
struct CodeSize {
  double sum = 0;     // of |code|
  double square = 0;  // |steps * code|^2, rounded up
};

// Codes a point x, which is at most `off` from the exact one.
CodeSize code_point(const float* x, double off, const std::vector<float>& offset,
                    const std::vector<float>& steps, std::int8_t* codes, CodedRow* coded) {
  const std::size_t d = steps.size();
  double square = 0, error = 0, sum = 0;
  for (std::size_t p = 0; p < d; ++p) {
    const double y = static_cast<double>(x[p]) - static_cast<double>(offset[p]);
    const auto step = static_cast<double>(steps[p]);
    const double code = step > 0 ? nearest_code(y / step, -127, 127) : 0;
    codes[p] = static_cast<std::int8_t>(code);
    const double in_steps = step * code, missed = y - in_steps;
    square += in_steps * in_steps;
    error += missed * missed;
    sum += std::fabs(code);
  }
  const double relative = roundings(static_cast<double>(d) + 8, kV);
  // Of rows this large a sum of squares leaves float32, and no bound would hold.
  if (!(square <= static_cast<double>(std::numeric_limits<float>::max()))) throw_uncodable();
  *coded = {static_cast<float>(square),
            round_up(std::sqrt(error) * (1 + relative) + std::sqrt(square) * 4 * kV + off)};
  return {sum, square * (1 + relative)};
}

}  // namespace

CodedRows code_rows(const RowPoints& rows, const PointSample& sample,
                    const Arrangement& arrangement) {
  const std::size_t d = rows.dimensions(), places = arrangement.rows.size();
  CodedRows result;
  result.code_depth = (d + kCodeStep - 1) / kCodeStep * kCodeStep;
  result.codes.assign(places * result.code_depth, 0);
  result.coded.assign(places, {0, 0});
  result.steps = steps_for(sample);
  std::vector<CodeSize> largest(arrangement.chunks.size());
  const Execution& execution = rows.execution();
  parallel_for(largest.size(), execution.threads, execution.interrupt,
               [&](std::size_t c, bool calling) {
                 execution.interrupt.poll(calling);
                 const Chunk& chunk = arrangement.chunks[c];
                 std::vector<float> scratch(d);
                 double off;
                 for (std::size_t place = chunk.first; place < chunk.first + chunk.count; ++place) {
                   if (arrangement.rows[place] == kNoRow) continue;
                   const float* x = rows.point(arrangement.rows[place], scratch.data(), &off);
                   const CodeSize size =
                       code_point(x, off, sample.offset, result.steps,
                                  &result.codes[place * result.code_depth], &result.coded[place]);
                   largest[c] = {std::max(largest[c].sum, size.sum),
                                 std::max(largest[c].square, size.square)};
                 }
               });
  for (const CodeSize& size : largest) {
    result.code_sum = std::max(result.code_sum, size.sum);
    result.largest_square = std::max(result.largest_square, size.square);
  }
  return result;
}

}  // namespace resmem
