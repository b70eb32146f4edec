// All kernels, as nvcc compiles them.
#include "codes.cuh"
#include "filter.cuh"
#include "launch.h"
#include "rescore.cuh"
#include "select.cuh"
#include "ptx.h"
