// One AdamW step over `count` elements, as the CPU and the CUDA kernel receive it. Its definition is
// kernels/adamw_reference.py: float32 operations in that order, each rounded (no fused multiply-add),
// so that every backend writes the same bits.
#pragma once

#include <cstdint>

namespace nsr {

struct AdamwArgs {
  void* weight;
  const void* grad;
  float* exp_avg;
  float* exp_avg_sq;
  float* master;              // of a bfloat16 weight; null: the weight is rounded stochastically
  const float* grad_scale_at;  // on the device; null: grad_scale below
  int64_t count;              // < 2^31: the rounding bits are a hash of a 32-bit index
  int32_t is_weight_half, is_grad_half;  // bfloat16 instead of float32
  float step_size;            // learning_rate / (1 - beta1^step)
  float decay;                // learning_rate * weight_decay
  float blend1;               // 1 - beta1
  float beta2, blend2;        // blend2 = 1 - beta2
  float inv_bias2_sqrt;       // 1 / sqrt(1 - beta2^step)
  float eps;
  float grad_scale;           // not finite: nothing is written
  uint32_t key0, key1;        // of the rounding bits
};

constexpr int kQuantBlock = 256;  // elements that share an absmax

// The step on a state of 3 bytes; its definition is kernels/adamw_8bit_reference.py. exp_avg,
// exp_avg_sq and master of `step` are null.
struct Adamw8bitArgs {
  AdamwArgs step;
  int8_t* code;    // [count] of the dynamic map
  float* absmax;   // [ceil(count / kQuantBlock)]
  void* exp_avg_sq;  // [count] bfloat16
};

}  // namespace nsr
