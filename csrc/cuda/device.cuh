// What a kernel may ask of the machine: barriers, shuffles, shared memory, clusters, a launch.
// With NSR_SIMT_HOST the same names come from ../simt/device.h and g++ runs the kernels on the CPU.
// A barrier carries a number, so that a test can remove exactly one and see the result break.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace nsr {

constexpr int kWarp = 32;
constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

struct LaunchShape {
  int64_t grid;    // blocks
  int block;       // threads
  int cluster;     // blocks in a cluster; 1 = ordinary launch
  size_t shared;   // dynamic shared memory of a block, bytes
  void* stream;    // cudaStream_t
};

}  // namespace nsr

#ifdef NSR_SIMT_HOST
#include "../simt/device.h"
#else
#include <cuda_runtime.h>

#define NSR_DEVICE __device__ __forceinline__
#define NSR_SYNC_BLOCK(site) __syncthreads()

// Clusters exist from sm_90 on; elsewhere the kernel body is compiled away.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define NSR_HAS_CLUSTER 1
#define NSR_CLUSTER_ARRIVE(site) __cluster_barrier_arrive()
#define NSR_CLUSTER_WAIT(site) __cluster_barrier_wait()
#endif

namespace nsr {

// The value of lane (own lane ^ lane_mask); T is made of 4-byte words.
template <class T>
NSR_DEVICE T shuffle_xor(const T& value, int lane_mask) {
  constexpr int kWords = sizeof(T) / 4;
  uint32_t words[kWords];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_xor_sync(0xffffffffu, words[i], lane_mask);
  T other;
  memcpy(&other, words, sizeof(T));
  return other;
}

NSR_DEVICE void* dynamic_shared() {
  extern __shared__ uint4 nsr_dynamic_shared[];
  return nsr_dynamic_shared;
}

#ifdef NSR_HAS_CLUSTER
template <class T>
NSR_DEVICE const T* cluster_shared(const T* own, int rank) {
  return static_cast<const T*>(__cluster_map_shared_rank(own, rank));
}
#endif

NSR_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
NSR_DEVICE uint32_t as_bits(float value) { return __float_as_uint(value); }

// Rounded to nearest even and never fused, whatever the compiler's flags.
NSR_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
NSR_DEVICE float sub_rn(float a, float b) { return __fsub_rn(a, b); }
NSR_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
NSR_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
NSR_DEVICE float sqrt_rn(float a) { return __fsqrt_rn(a); }

// 2^x with 2 ulp; results below 2^-126 become 0, exp2(-inf) = 0, NaN stays.
NSR_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats rounded to nearest even, `low` in the low half.
NSR_DEVICE uint32_t to_bfloat16x2(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
NSR_DEVICE uint32_t to_float16x2(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
NSR_DEVICE float from_float16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Shared memory a block may have on the current device, bytes.
inline size_t shared_limit() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}
inline int compute_major() { return device_attribute(cudaDevAttrComputeCapabilityMajor); }
inline int num_multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// false: the device cannot place a cluster of this size (a partitioned GPU): use another kernel.
template <class Args>
bool launch(void (*kernel)(Args), const LaunchShape& shape, const Args& args) {
  if (shape.shared > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared)),
          "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid));
  config.blockDim = dim3(static_cast<unsigned>(shape.block));
  config.dynamicSmemBytes = shape.shared;
  config.stream = static_cast<cudaStream_t>(shape.stream);
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args);
  const bool refused = error == cudaErrorInvalidClusterSize ||
                       error == cudaErrorInvalidConfiguration ||
                       error == cudaErrorLaunchOutOfResources;
  if (shape.cluster > 1 && refused) {
    cudaGetLastError();
    return false;
  }
  check(error, "kernel launch");
  return true;
}

}  // namespace nsr
#endif
