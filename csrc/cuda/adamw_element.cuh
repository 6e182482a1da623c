// What both AdamW kernels do with four consecutive elements: 16 bytes of an array of float32, 8 of
// bfloat16, 4 of codes. An array whose address allows it is moved in such vectors, any other one element
// by element; so is the end.
#pragma once

#include "../adamw.h"
#include "element.cuh"

namespace nsr {
namespace {

constexpr int kAdamwThreads = 256;
constexpr int kItems = 4;

NSR_DEVICE bool is_aligned(const void* at, int bytes) {
  return reinterpret_cast<uintptr_t>(at) % unsigned(bytes) == 0;
}

NSR_DEVICE void read_vector(const float* at, float (&x)[kItems]) {
  unpack(*reinterpret_cast<const uint4*>(at), x, float{});
}
NSR_DEVICE void read_vector(const BFloat16* at, float (&x)[kItems]) {
  const uint2 words = *reinterpret_cast<const uint2*>(at);
  x[0] = as_float(words.x << 16);
  x[1] = as_float(words.x & 0xffff0000u);
  x[2] = as_float(words.y << 16);
  x[3] = as_float(words.y & 0xffff0000u);
}
NSR_DEVICE void write_vector(float* at, const float (&x)[kItems]) {
  *reinterpret_cast<uint4*>(at) = pack(x, float{});
}
NSR_DEVICE void write_vector(BFloat16* at, const float (&x)[kItems]) {
  *reinterpret_cast<uint2*>(at) = {to_bfloat16x2(x[0], x[1]), to_bfloat16x2(x[2], x[3])};
}

// The first n of four elements; the others read as 0.
template <class T>
NSR_DEVICE void read(const T* at, int n, float (&x)[kItems]) {
  if (n == kItems && is_aligned(at, kItems * sizeof(T))) return read_vector(at, x);
#pragma unroll
  for (int i = 0; i < kItems; ++i) x[i] = i < n ? to_float(at[i]) : 0.f;
}

template <class T>
NSR_DEVICE void write(T* at, int n, const float (&x)[kItems]) {
  if (n == kItems && is_aligned(at, kItems * sizeof(T))) return write_vector(at, x);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (i < n) store(at + i, x[i]);
  }
}

NSR_DEVICE bool is_finite(float x) { return fabsf(x) < as_float(0x7f800000u); }

NSR_DEVICE float scale_of(const AdamwArgs& args) {
  return args.grad_scale_at ? *args.grad_scale_at : args.grad_scale;
}

// adamw_reference.moved of one element.
NSR_DEVICE void move(float& w, float g, float& m, float& v, const AdamwArgs& args) {
  m = add_rn(m, mul_rn(sub_rn(g, m), args.blend1));
  v = add_rn(mul_rn(v, args.beta2), mul_rn(mul_rn(g, g), args.blend2));
  const float root = add_rn(mul_rn(sqrt_rn(v), args.inv_bias2_sqrt), args.eps);
  const float step = mul_rn(div_rn(m, root), args.step_size);
  w = sub_rn(w, add_rn(step, mul_rn(w, args.decay)));
}

// rounding_bits of kernels/adamw_reference.py.
NSR_DEVICE uint32_t rounding_bits(uint32_t index, const AdamwArgs& args) {
  uint32_t x = index ^ args.key0;
  x = (x ^ (x >> 16)) * 0x7feb352du + args.key1;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// One of the two bfloat16 neighbours of x; NaN (whose payload is all ones on a GPU) takes no carry.
NSR_DEVICE float round_stochastic(float x, uint32_t noise) {
  return x == x ? as_float((as_bits(x) + (noise & 0xffffu)) & 0xffff0000u) : x;
}

}  // namespace
}  // namespace nsr
