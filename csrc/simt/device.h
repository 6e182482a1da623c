// The machine layer of ../cuda/device.cuh for g++ (-DNSR_SIMT_HOST): see simt.h.
#pragma once

#include <cmath>
#include <cstring>

#include "simt.h"

#define __global__
#define __launch_bounds__(...)
#define NSR_DEVICE inline
#define NSR_HAS_CLUSTER 1
#define NSR_SYNC_BLOCK(site) ::simt::sync_block(site)
#define NSR_CLUSTER_ARRIVE(site) ::simt::cluster_arrive(site)
#define NSR_CLUSTER_WAIT(site) ::simt::cluster_wait(site)
#define threadIdx (::simt::current->thread)
#define blockIdx (::simt::current->block->index)
#define blockDim (::simt::block_dim)

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
static_assert(sizeof(uint4) == 16 && sizeof(uint2) == 8);

namespace nsr {

using std::max;
using std::min;

template <class T>
T shuffle_xor(const T& value, int lane_mask) {
  static_assert(sizeof(T) <= 64);
  simt::Warp& warp = *simt::current->warp;
  const unsigned lane = simt::current->thread.x % simt::kLanes;
  const uint64_t turn = warp.shuffle.generation;
  std::memcpy(warp.slot[turn % 2][lane], &value, sizeof(T));
  simt::wait(warp.shuffle, simt::arrive(warp.shuffle, 0));
  T other;
  std::memcpy(&other, warp.slot[turn % 2][lane ^ unsigned(lane_mask)], sizeof(T));
  return other;
}

inline void* dynamic_shared() { return simt::current->block->shared(); }

template <class T>
const T* cluster_shared(const T* own, int rank) {
  auto& blocks = *simt::cluster_blocks;
  if (rank < 0 || rank >= int(blocks.size())) simt::fail("cluster_shared: no such block");
  const auto offset = reinterpret_cast<const unsigned char*>(own) - simt::current->block->shared();
  return reinterpret_cast<const T*>(blocks[rank].shared() + offset);
}

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Compiled with -ffp-contract=off.
inline float add_rn(float a, float b) { return a + b; }
inline float sub_rn(float a, float b) { return a - b; }
inline float mul_rn(float a, float b) { return a * b; }
inline float div_rn(float a, float b) { return a / b; }
inline float sqrt_rn(float a) { return std::sqrt(a); }

inline float exp2_fast(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.f : y;
}

inline uint32_t to_bfloat16(float value) {
  const uint32_t bits = as_bits(value);
  if (value != value) return 0x7fffu;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
inline uint32_t to_bfloat16x2(float low, float high) {
  return to_bfloat16(low) | to_bfloat16(high) << 16;
}

inline float from_float16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent ? ldexpf(float(fraction + 1024), exponent - 25)
                                : ldexpf(float(fraction), -24);
  return bits >> 15 ? -size : size;
}
inline uint32_t to_float16(float value) {
  const uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
  const float size = fabsf(value);
  if (size != size) return 0x7fffu;
  if (size >= 65520.f) return sign | 0x7c00u;
  const int exponent = std::max(-14, size > 0.f ? std::ilogb(size) : -14);
  // In units of the last place; a carry out of the fraction raises the exponent by itself.
  const auto units = uint32_t(std::nearbyint(ldexpf(size, 10 - exponent)));
  return sign | (units + (uint32_t(exponent + 14) << 10));
}
inline uint32_t to_float16x2(float low, float high) {
  return to_float16(low) | to_float16(high) << 16;
}

inline size_t shared_limit() { return simt::options.shared_limit; }
inline int compute_major() { return simt::options.compute_major; }
inline int num_multiprocessors() { return 132; }

template <class Args>
bool launch(void (*kernel)(Args), const LaunchShape& shape, const Args& args) {
  if (shape.shared > shared_limit()) throw std::runtime_error("simt: too much shared memory");
  const bool is_grid = shape.grid >= 1 && shape.grid < 1ll << 31 && shape.grid % shape.cluster == 0;
  if (!is_grid || shape.block % simt::kLanes || shape.block > 1024) {
    throw std::runtime_error("simt: launch shape");
  }
  simt::body = [&] { kernel(args); };
  for (int64_t first = 0; first < shape.grid; first += shape.cluster) {
    simt::run_cluster(first, shape.cluster, shape.block, shape.shared);
  }
  return true;
}

}  // namespace nsr
