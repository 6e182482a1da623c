// The algebra of one row, in registers.
//
//     z = softcap tanh(logit / softcap)     x = z / temperature     p = softmax(x)
//     lse = log sum exp x    H = -sum p log p    sums of p^2 and p^2 log p
//     dL/dlogit = (c (1[v=y] - p) - e p (log p + H)) / temperature * (1 - (z / softcap)^2)
//
// Sums are kept relative to a running maximum of z and in powers of two. An entry of -inf has p = 0
// (in a row of nothing else too); NaN makes its row NaN; a row with c = e = 0 gets exact zeros.
#pragma once

#include "element.cuh"
#include "row.h"

namespace nsr {

constexpr float kLowest = -1e30f;  // stands for log2 of zero, so that 0 * log 0 = 0
NSR_DEVICE float minus_infinity() { return as_float(0xff800000u); }
NSR_DEVICE float not_a_number() { return as_float(0x7fffffffu); }

// z of a logit, and the slope dz/dlogit. kCapped is a template parameter of every kernel: the tanh
// costs registers that the usual, uncapped kernel needs to keep more loads in flight.
template <bool kCapped>
struct Softcap {
  float cap, inv_cap;
  NSR_DEVICE explicit Softcap(float softcap) : cap(softcap), inv_cap(1.f / softcap) {}
  NSR_DEVICE float value(float logit) const {
    return kCapped ? cap * tanhf(logit * inv_cap) : logit;
  }
  NSR_DEVICE float slope(float z) const {
    const float t = z * inv_cap;
    return kCapped ? fmaf(-t, t, 1.f) : 1.f;
  }
};

// With d_v = (z_v - max) log2(e) / temperature: sums over v of 2^d, 2^d d, 4^d, 4^d d.
struct RowSums {
  float max, sum, sum_d, sum_p2, sum_p2_d;

  static NSR_DEVICE RowSums empty() { return {minus_infinity(), 0.f, 0.f, 0.f, 0.f}; }

  // Change the maximum to a larger one.
  NSR_DEVICE void raise(float to, float scale) {
    const float shift = max == to ? 0.f : fmaxf((max - to) * scale, kLowest);
    const float f = exp2_fast(shift), f2 = f * f;
    sum_d = f * fmaf(shift, sum, sum_d);
    sum_p2_d = f2 * fmaf(shift, sum_p2, sum_p2_d);
    sum *= f;
    sum_p2 *= f2;
    max = to;
  }

  // Add logits none of which exceeds max.
  template <int N>
  NSR_DEVICE void add_below(const float (&z)[N], float scale) {
    const float base = max == minus_infinity() ? 0.f : max;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float raw = (z[i] - base) * scale;
      const float p = exp2_fast(raw), p2 = p * p, d = fmaxf(raw, kLowest);
      sum += p;
      sum_d = fmaf(p, d, sum_d);
      sum_p2 += p2;
      sum_p2_d = fmaf(p2, d, sum_p2_d);
    }
  }

  template <int N>
  NSR_DEVICE void add(const float (&z)[N], float scale) {
    float top = z[0];
#pragma unroll
    for (int i = 1; i < N; ++i) top = fmaxf(top, z[i]);
    if (top > max) raise(top, scale);
    add_below(z, scale);
  }
};

// Symmetric to the last bit, so that a butterfly leaves the same value in every lane.
NSR_DEVICE RowSums merged(const RowSums& a, const RowSums& b, float scale) {
  RowSums high = a.max < b.max ? b : a, low = a.max < b.max ? a : b;
  low.raise(high.max, scale);
  high.sum += low.sum;
  high.sum_d += low.sum_d;
  high.sum_p2 += low.sum_p2;
  high.sum_p2_d += low.sum_p2_d;
  return high;
}

NSR_DEVICE RowSums merge_warp(RowSums sums, float scale) {
#pragma unroll
  for (int lane_mask = kWarp / 2; lane_mask > 0; lane_mask /= 2) {
    sums = merged(sums, shuffle_xor(sums, lane_mask), scale);
  }
  return sums;
}

// No entry of the row is above -inf: no distribution, all statistics but lse and logprob are 0.
NSR_DEVICE bool is_masked(const RowSums& s) { return s.sum == 0.f; }

NSR_DEVICE float entropy_of(const RowSums& s) {
  return is_masked(s) ? 0.f : logf(s.sum) - kLn2 * s.sum_d / s.sum;
}

NSR_DEVICE void write_stats(const RowArgs& args, int64_t row, const RowSums& s, float z_target) {
  const float log_sum = logf(s.sum), inv_square = is_masked(s) ? 0.f : 1.f / (s.sum * s.sum);
  const float logprob = fmaf(z_target - s.max, args.inv_temperature, -log_sum);
  args.out_lse[row] = fmaf(s.max, args.inv_temperature, log_sum);
  args.out_logprob[row] = is_masked(s) ? z_target : logprob > 0.f ? 0.f : logprob;
  args.out_entropy[row] = entropy_of(s);
  args.out_sum_p2[row] = s.sum_p2 * inv_square;
  args.out_sum_p2_logp[row] =
      is_masked(s) ? 0.f : (kLn2 * s.sum_p2_d - log_sum * s.sum_p2) * inv_square;
  args.out_greedy[row] = s.sum > 0.f && z_target >= s.max;
}

// dL/dlogit of one row. log p = (z - base) / temperature - shift.
template <bool kCapped>
struct RowGradient {
  float base, shift, inv_temperature, c, e, entropy;
  int target;  // -1 when outside the vocabulary
  Softcap<kCapped> softcap;

  NSR_DEVICE RowGradient(const RowArgs& args, int64_t row, float base, float shift, float entropy)
      : base(base == minus_infinity() ? 0.f : base), shift(shift == minus_infinity() ? 0.f : shift),
        inv_temperature(args.inv_temperature), c(args.c[row] * inv_temperature),
        e(args.e ? args.e[row] * inv_temperature : 0.f), entropy(entropy), target(-1),
        softcap(args.softcap) {
    const int64_t y = args.target[row];
    if (y >= 0 && y < args.vocab) target = int(y);
    if (target < 0) c = not_a_number();
  }

  NSR_DEVICE bool is_zero() const { return c == 0.f && e == 0.f; }

  NSR_DEVICE float log_p(float z) const { return fmaf(z - base, inv_temperature, -shift); }

  NSR_DEVICE float entry(float logit) const {
    const float z = softcap.value(logit), log_p_v = log_p(z), p = exp2_fast(log_p_v * kLog2e);
    return -p * fmaf(e, fmaxf(log_p_v, kLowest) + entropy, c) * softcap.slope(z);
  }
  // 1 - p by expm1: a target with p near 1 keeps its relative accuracy.
  NSR_DEVICE float target_entry(float logit) const {
    const float z = softcap.value(logit), log_p_y = log_p(z), p = exp2_fast(log_p_y * kLog2e);
    const float bend = p * (fmaxf(log_p_y, kLowest) + entropy);
    return (-c * expm1f(log_p_y) - e * bend) * softcap.slope(z);
  }
};

}  // namespace nsr
