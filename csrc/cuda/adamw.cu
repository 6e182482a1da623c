// One AdamW step (../adamw.h) on every GPU from sm_80 on: each array is read once and written once.
// A thread owns four consecutive elements.
#include "adamw.h"

#include "adamw_element.cuh"

namespace nsr {
namespace {

template <class W, class G, bool kMaster>
__global__ void __launch_bounds__(kAdamwThreads) adamw_kernel(const AdamwArgs args) {
  const float scale = scale_of(args);
  const int64_t first = (int64_t(blockIdx.x) * kAdamwThreads + threadIdx.x) * kItems;
  if (first >= args.count || !is_finite(scale)) return;
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
  for (int i = 0; i < kItems; ++i) move(w[i], mul_rn(g[i], scale), m[i], v[i], args);
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
