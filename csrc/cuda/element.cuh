// Element types of a logits tile and their 16-byte vectors: float32, bfloat16, float16.
// No header of the toolkit's half types: they triple the compile time and do not exist under g++.
#pragma once

#include "device.cuh"

namespace nsr {

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

NSR_DEVICE float to_float(float value) { return value; }
NSR_DEVICE float to_float(BFloat16 value) { return as_float(uint32_t(value.bits) << 16); }
NSR_DEVICE float to_float(Float16 value) { return from_float16(value.bits); }

NSR_DEVICE void store(float* at, float value) { *at = value; }
NSR_DEVICE void store(BFloat16* at, float value) { at->bits = uint16_t(to_bfloat16x2(value, 0.f)); }
NSR_DEVICE void store(Float16* at, float value) { at->bits = uint16_t(to_float16x2(value, 0.f)); }

// Elements in one 16-byte vector.
template <class T>
constexpr int kPack = 16 / sizeof(T);

NSR_DEVICE void unpack(const uint4& words, float (&value)[4], float) {
  value[0] = as_float(words.x);
  value[1] = as_float(words.y);
  value[2] = as_float(words.z);
  value[3] = as_float(words.w);
}

NSR_DEVICE void unpack(const uint4& words, float (&value)[8], BFloat16) {
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    value[2 * i] = as_float(word[i] << 16);
    value[2 * i + 1] = as_float(word[i] & 0xffff0000u);
  }
}

NSR_DEVICE void unpack(const uint4& words, float (&value)[8], Float16) {
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    value[2 * i] = from_float16(uint16_t(word[i]));
    value[2 * i + 1] = from_float16(uint16_t(word[i] >> 16));
  }
}

NSR_DEVICE uint4 pack(const float (&value)[4], float) {
  return {as_bits(value[0]), as_bits(value[1]), as_bits(value[2]), as_bits(value[3])};
}
NSR_DEVICE uint4 pack(const float (&value)[8], BFloat16) {
  return {to_bfloat16x2(value[0], value[1]), to_bfloat16x2(value[2], value[3]),
          to_bfloat16x2(value[4], value[5]), to_bfloat16x2(value[6], value[7])};
}
NSR_DEVICE uint4 pack(const float (&value)[8], Float16) {
  return {to_float16x2(value[0], value[1]), to_float16x2(value[2], value[3]),
          to_float16x2(value[4], value[5]), to_float16x2(value[6], value[7])};
}

}  // namespace nsr
