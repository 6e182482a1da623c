// One AdamW step (../adamw.h) on every GPU from sm_80 on: each array is read once and written once.
//
// A thread owns four consecutive elements, 16 bytes of an array of float32 and 8 of bfloat16. An array
// whose address allows it is moved in such vectors, any other one element by element; so is the end.
#include "adamw.h"

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

template <class W, class G, bool kMaster>
__global__ void __launch_bounds__(kAdamwThreads) adamw_kernel(const AdamwArgs args) {
  const float scale = args.grad_scale_at ? *args.grad_scale_at : args.grad_scale;
  const int64_t first = (int64_t(blockIdx.x) * kAdamwThreads + threadIdx.x) * kItems;
  if (first >= args.count || !(fabsf(scale) < as_float(0x7f800000u))) return;
  const int n = int(min(int64_t(kItems), args.count - first));
  W* const weight = static_cast<W*>(args.weight) + first;
  float g[kItems], m[kItems], v[kItems], w[kItems];
  read(static_cast<const G*>(args.grad) + first, n, g);
  read(args.exp_avg + first, n, m);
  read(args.exp_avg_sq + first, n, v);
  if constexpr (kMaster) {
    read(args.master + first, n, w);
  } else {
    read(weight, n, w);
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const float grad = mul_rn(g[i], scale);
    m[i] = add_rn(m[i], mul_rn(sub_rn(grad, m[i]), args.blend1));
    v[i] = add_rn(mul_rn(v[i], args.beta2), mul_rn(mul_rn(grad, grad), args.blend2));
    const float root = add_rn(mul_rn(sqrt_rn(v[i]), args.inv_bias2_sqrt), args.eps);
    const float step = mul_rn(div_rn(m[i], root), args.step_size);
    w[i] = sub_rn(w[i], add_rn(step, mul_rn(w[i], args.decay)));
  }
  write(args.exp_avg + first, n, m);
  write(args.exp_avg_sq + first, n, v);
  if constexpr (kMaster) {
    write(args.master + first, n, w);
  } else if constexpr (sizeof(W) == 2) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      w[i] = round_stochastic(w[i], rounding_bits(uint32_t(first) + i, args));
    }
  }
  write(weight, n, w);
}

template <class G>
void (*pick_adamw(const AdamwArgs& args))(AdamwArgs) {
  if (!args.is_weight_half) return adamw_kernel<float, G, false>;
  return args.master ? adamw_kernel<BFloat16, G, true> : adamw_kernel<BFloat16, G, false>;
}

}  // namespace

void adamw_step(const AdamwArgs& args, void* stream) {
  const auto kernel = args.is_grad_half ? pick_adamw<BFloat16>(args) : pick_adamw<float>(args);
  const int64_t blocks = (args.count - 1) / (kAdamwThreads * kItems) + 1;
  launch(kernel, {blocks, kAdamwThreads, 1, 0, stream}, args);
}

}  // namespace nsr
