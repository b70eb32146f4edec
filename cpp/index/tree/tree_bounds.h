// Tests see by this what every node of a tree promises.
#pragma once

#include "tree.h"

namespace resmem {

// Writes lower ends of canonical keys, (q, n, height + 1), by the nodes that hold a row, from the
// root down.
void tree_bounds(const Tree& tree, const IndexScope& scope, double* bounds);

}  // namespace resmem
