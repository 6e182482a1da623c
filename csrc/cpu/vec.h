// Vectors of the widest registers of the instruction set being compiled (compiler vector extensions, no
// intrinsics), bfloat16 loads and stores, exp and tanh. Everything lives in an anonymous namespace: a
// function shared between the objects of two instruction sets could be merged by the linker.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vfloat __attribute__((vector_size(kLanes * 4)));
typedef int32_t vint __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vuint __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vhalf __attribute__((vector_size(kLanes * 2)));

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kExpFloor = -87.0f;  // exp below it is taken as 0

struct bfloat16 {
  uint16_t bits;
};

inline vfloat splat(float x) { return vfloat{} + x; }

inline vfloat load(const float* p) {
  vfloat x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline vfloat load(const bfloat16* p) {
  vhalf h;
  std::memcpy(&h, p, sizeof h);
  return (vfloat)(__builtin_convertvector(h, vuint) << 16);
}

inline void store(float* p, vfloat x) { std::memcpy(p, &x, sizeof x); }

// Round to nearest even. NaN stays NaN as long as its low 16 mantissa bits are not all ones.
inline void store(bfloat16* p, vfloat x) {
  vuint u = (vuint)x;
  vhalf h = __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, vhalf);
  std::memcpy(p, &h, sizeof h);
}

// n < kLanes elements; the other lanes hold `fill`.
template <class T>
inline vfloat load_part(const T* p, int64_t n, T fill) {
  T buffer[kLanes];
  for (int i = 0; i < kLanes; ++i) buffer[i] = i < n ? p[i] : fill;
  return load(buffer);
}

template <class T>
inline void store_part(T* p, int64_t n, vfloat x) {
  T buffer[kLanes];
  store(buffer, x);
  std::memcpy(p, buffer, n * sizeof(T));
}

inline float sum_lanes(vfloat x) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += x[i];
  return total;
}

// exp(x) for x in [kExpFloor, 88], relative error 8e-8; NaN passes through. Cephes expf polynomial. The
// cast truncates, which after -0.5 rounds a non-positive product to the nearest integer.
inline vfloat exp_clamped(vfloat x) {
  vint n = __builtin_convertvector(x * 1.44269504f - 0.5f, vint);
  vfloat nf = __builtin_convertvector(n, vfloat);
  vfloat r = (x - nf * 0.693359375f) + nf * 2.12194440e-4f;
  vfloat y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  return y * (vfloat)((vuint)(n + 127) << 23);
}

inline vfloat clamp_low(vfloat x) { return x < kExpFloor ? splat(kExpFloor) : x; }

// exp(d) for d <= 0, exactly 0 below kExpFloor; `clamped` is clamp_low(d).
inline vfloat exp_or_zero(vfloat d, vfloat clamped) {
  return d < kExpFloor ? vfloat{} : exp_clamped(clamped);
}

// Absolute error 1.2e-7, relative error 1e-7 below 0.3 (odd Taylor polynomial).
inline vfloat tanh_vec(vfloat x) {
  vfloat magnitude = x < 0.0f ? -x : x;
  vfloat clamped = magnitude > 20.0f ? splat(20.0f) : magnitude;
  vfloat t = exp_clamped(-2.0f * clamped);
  vfloat big = (1.0f - t) / (1.0f + t);
  vfloat s = x * x;
  vfloat poly = splat(62.0f / 2835.0f);
  poly = poly * s - 17.0f / 315.0f;
  poly = poly * s + 2.0f / 15.0f;
  poly = poly * s - 1.0f / 3.0f;
  vfloat small = x + x * s * poly;
  vfloat is_signed = x < 0.0f ? -big : big;
  return magnitude < 0.3f ? small : is_signed;
}

}  // namespace
