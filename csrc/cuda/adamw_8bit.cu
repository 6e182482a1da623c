// One AdamW step on a state of 3 bytes (../adamw.h) on every GPU from sm_80 on: each array is read once
// and written once. A warp owns a block of 256 elements, a lane two runs of four, 128 apart; the new
// first moments wait in registers for their absmax, a butterfly over the warp.
#include "../dynamic_map.h"
#include "adamw.h"
#include "adamw_element.cuh"

namespace nsr {
namespace {

constexpr int kRuns = kQuantBlock / (kWarp * kItems);
constexpr int kBlocksOfCta = kAdamwThreads / kWarp;

struct Decoding {
  float shift, unit;
};

template <int I = 0>
NSR_DEVICE Decoding decoding_of(float k, Decoding so_far = {}) {
  using D = Decade<I>;
  if (I == 0 || k >= float(D::kFirst)) so_far = {D::kShift, D::kUnit};
  if constexpr (I < 6) return decoding_of<I + 1>(k, so_far);
  return so_far;
}

struct Encoding {
  float scale, offset, last;
};

template <int I = 0>
NSR_DEVICE Encoding encoding_of(float size, Encoding so_far = {}) {
  using D = Decade<I>;
  if (I == 0 || size >= D::kFloor) so_far = {D::kScale, D::kOffset, D::kLast};
  if constexpr (I < 6) return encoding_of<I + 1>(size, so_far);
  return so_far;
}

// value(code) of kernels/adamw_8bit_reference.py.
NSR_DEVICE float value_of(int code) {
  const float signed_k = float(code), k = fabsf(signed_k);
  const Decoding by = decoding_of(k);
  const float size = code == 0 ? 0.f : mul_rn(add_rn(mul_rn(18.f, k), by.shift), by.unit);
  return k == kOne ? 1.f : signed_k < 0.f ? -size : size;
}

// nearest_code of the same.
NSR_DEVICE int code_of(float y) {
  const float size = fabsf(y);
  if (!(size >= kSmallest && size < 2.f)) return 0;
  const Encoding by = encoding_of(size);
  const float cut = add_rn(mul_rn(size, by.scale), by.offset);
  const int k = int(y >= kLargest ? kOne : cut < by.last ? cut : by.last);
  return y < 0.f ? -k : k;
}

NSR_DEVICE void read_codes(const int8_t* at, int n, int (&code)[kItems]) {
  if (n == kItems && is_aligned(at, kItems)) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(at);
#pragma unroll
    for (int i = 0; i < kItems; ++i) code[i] = int8_t(word >> (8 * i));
    return;
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) code[i] = i < n ? at[i] : 0;
}

NSR_DEVICE void write_codes(int8_t* at, int n, const int (&code)[kItems]) {
  if (n == kItems && is_aligned(at, kItems)) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) word |= (uint32_t(code[i]) & 0xffu) << (8 * i);
    *reinterpret_cast<uint32_t*>(at) = word;
    return;
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (i < n) at[i] = int8_t(code[i]);
  }
}

// Steps the n (0 to 4) elements at `first` and leaves their new first moments in m.
template <class W, class G>
NSR_DEVICE void step_run(const Adamw8bitArgs& args, float scale, int64_t first, int n, float absmax,
                         float (&m)[kItems]) {
  const AdamwArgs& step = args.step;
  W* const weight = static_cast<W*>(step.weight) + first;
  BFloat16* const second = static_cast<BFloat16*>(args.exp_avg_sq) + first;
  float g[kItems], v[kItems], w[kItems];
  int code[kItems];
  read(static_cast<const G*>(step.grad) + first, n, g);
  read_codes(args.code + first, n, code);
  read(second, n, v);
  read(weight, n, w);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    m[i] = mul_rn(value_of(code[i]), absmax);
    move(w[i], mul_rn(g[i], scale), m[i], v[i], step);
    const uint32_t noise = rounding_bits(uint32_t(first) + i, step);
    v[i] = round_stochastic(v[i], noise >> 16);
    if (sizeof(W) == 2) w[i] = round_stochastic(w[i], noise);
  }
  write(second, n, v);
  write(weight, n, w);
}

template <class W, class G>
__global__ void __launch_bounds__(kAdamwThreads) adamw_8bit_kernel(const Adamw8bitArgs args) {
  const float scale = scale_of(args.step);
  const int lane = threadIdx.x % kWarp;
  const int64_t block = int64_t(blockIdx.x) * kBlocksOfCta + threadIdx.x / kWarp;
  const int64_t begin = block * kQuantBlock;
  if (begin >= args.step.count || !is_finite(scale)) return;  // the whole warp
  const int rest = int(min(int64_t(kQuantBlock), args.step.count - begin));
  const float absmax = args.absmax[block];
  float m[kRuns][kItems], top = 0.f;
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    const int at = (run * kWarp + lane) * kItems, n = max(0, min(kItems, rest - at));
    step_run<W, G>(args, scale, begin + at, n, absmax, m[run]);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const float size = fabsf(m[run][i]);
      if (i < n && size > top && is_finite(size)) top = size;
    }
  }
#pragma unroll
  for (int lane_mask = kWarp / 2; lane_mask > 0; lane_mask /= 2) {
    top = fmaxf(top, shuffle_xor(top, lane_mask));
  }
  const float inverse = div_rn(1.f, top);
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    const int at = (run * kWarp + lane) * kItems, n = max(0, min(kItems, rest - at));
    int code[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) code[i] = code_of(mul_rn(m[run][i], inverse));
    write_codes(args.code + begin + at, n, code);
  }
  // Every lane has read the old one: the butterfly stands between.
  if (lane == 0) args.absmax[block] = top;
}

}  // namespace

void adamw_8bit_step(const Adamw8bitArgs& args, void* stream) {
  const AdamwArgs& step = args.step;
  const auto of_half = step.is_grad_half ? adamw_8bit_kernel<BFloat16, BFloat16>
                                         : adamw_8bit_kernel<BFloat16, float>;
  const auto of_float = step.is_grad_half ? adamw_8bit_kernel<float, BFloat16>
                                          : adamw_8bit_kernel<float, float>;
  const int64_t blocks = (step.count - 1) / kQuantBlock + 1;
  const LaunchShape shape{(blocks - 1) / kBlocksOfCta + 1, kAdamwThreads, 1, 0, stream};
  launch(step.is_weight_half ? of_half : of_float, shape, args);
}

}  // namespace nsr
