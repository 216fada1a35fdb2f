// Functions for both sides of a launch.
#pragma once

#ifdef __CUDACC__
#define TSGEN_HOST_DEVICE __host__ __device__
#else
#define TSGEN_HOST_DEVICE
#endif
