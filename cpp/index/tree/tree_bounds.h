// What every node of a tree promises, laid open for tests.
#pragma once

#include "tree.h"

namespace resmem {

// Lower ends of canonical keys, (q, n, height + 1): by the nodes that hold a row, from the root
// down.
void tree_bounds(const Tree& tree, const IndexScope& scope, double* bounds);

}  // namespace resmem
