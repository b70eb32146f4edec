// All kernels, as nvcc compiles them.
#include "aggregate.cu"
#include "arrange.cu"
#include "residuals.cu"
#include "rows.cu"
#include "search.cu"
#include "several.cu"
#include "slabs.cu"
