// All kernels, as nvcc compiles them.
#include "codes.cuh"
#include "launch.h"
#include "ptx.h"
