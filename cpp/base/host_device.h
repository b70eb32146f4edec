// Marks functions that the compiler of a device compiles for the device as well as for the host.
#pragma once

#if defined(__CUDACC__)
#define RESMEM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RESMEM_HOST_DEVICE inline
#endif
