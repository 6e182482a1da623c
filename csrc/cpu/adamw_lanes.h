// What both AdamW kernels do with a vector of elements (../adamw.h). Compiled with -ffp-contract=off, so
// that each product and sum is rounded as kernels/adamw_reference.py rounds it.
#pragma once
#include "../adamw.h"
#include "vec.h"

namespace {

using nsr::AdamwArgs;

constexpr int64_t kChunk = 1 << 14;

// Waking a thread costs more than some 30,000 elements of work.
inline int threads_for(int64_t chunks, int most) {
  return (chunks + 1) / 2 < most ? static_cast<int>((chunks + 1) / 2) : most;
}

// n is kLanes (a constant in the main loop) or the rest of the array.
template <class T>
inline vfloat read(const T* p, int64_t n) {
  return n == kLanes ? load(p) : load_part(p, n, T{});
}

template <class T>
inline void write(T* p, int64_t n, vfloat x) {
  if (n == kLanes)
    store(p, x);
  else
    store_part(p, n, x);
}

inline vfloat sqrt_vec(vfloat x) {
  float lane[kLanes];
  std::memcpy(lane, &x, sizeof x);
  for (int i = 0; i < kLanes; ++i) lane[i] = __builtin_sqrtf(lane[i]);
  std::memcpy(&x, lane, sizeof x);
  return x;
}

// 32 bits of noise for each index: rounding_bits of kernels/adamw_reference.py.
inline vuint rounding_bits(vuint index, const AdamwArgs& a) {
  vuint x = index ^ a.key0;
  x = (x ^ (x >> 16)) * 0x7feb352du + a.key1;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// x as bfloat16: `below` is what is added to the 16 bits that fall away. An infinity stays one; the
// carry must not touch NaN, whose payload may be all ones (it is on a GPU).
inline void write_half(bfloat16* p, int64_t n, vfloat x, vuint below) {
  const vuint bits = x == x ? (vuint)x + below : (vuint)splat(kNan);
  const vhalf half = __builtin_convertvector(bits >> 16, vhalf);
  std::memcpy(p, &half, n * sizeof(bfloat16));
}

// adamw_reference.moved.
inline void move(vfloat& w, vfloat g, vfloat& m, vfloat& v, const AdamwArgs& a) {
  m = m + (g - m) * a.blend1;
  v = v * a.beta2 + (g * g) * a.blend2;
  w = w - ((m / (sqrt_vec(v) * a.inv_bias2_sqrt + a.eps)) * a.step_size + w * a.decay);
}

inline vuint lane_numbers() {
  vuint lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

}  // namespace
