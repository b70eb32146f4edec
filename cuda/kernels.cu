// All kernels, as nvcc compiles them.
#include "arrange.cu"
#include "rows.cu"
#include "search.cu"
#include "several.cu"
#include "slabs.cu"
