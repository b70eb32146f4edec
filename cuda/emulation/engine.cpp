// The engine as it runs in the emulation: the same sources, compiled for the host.
#include "../kernels.cu"
