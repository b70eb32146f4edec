// Checks maps to the probability simplex.
#include <cstddef>
#include <cstdint>

#include "../residuals/simplex.h"
#include "checks.h"
#include "simplex_map.h"

namespace resmem {

void check_simplex(Context& context, Reader& reader) {
  const std::size_t n = reader.size(), columns = reader.size();
  const auto kind = reader.value<std::int64_t>();
  const SimplexMap map = simplex_map(kind, reader.value<double>());
  const auto strength = reader.value<double>();
  const Doubles values = reader.array<double>(times(n, columns));
  const Doubles base = reader.array<double>();  // empty: not known
  const Doubles wanted = reader.array<double>(values.size());
  require(base.empty() || base.size() == values.size(), "the base outputs have another shape");
  check_output(context, wanted, [&](const Execution& execution, Doubles& out) {
    out = values;
    map_to_simplex(map, {out.data(), base.empty() ? nullptr : base.data(), strength, n, columns},
                   execution);
  });
}

}  // namespace resmem
