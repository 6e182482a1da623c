// The three row operations on a tile of logits [rows, vocab], as the host sees them; their
// definition is kernels/rows_reference.py. All pointers are device pointers; arrays have `rows` entries,
// at least one.
#pragma once

#include <cstdint>

namespace nsr {

enum class Dtype : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// kBlock: one block per row, the gradient reads the row again. kCluster (sm_90 and later): the
// blocks of a cluster hold the row in shared memory, so it is read from device memory once.
enum class Path : int { kAuto = 0, kBlock = 1, kCluster = 2 };

struct RowArgs {
  void* logits;           // overwritten by the gradient operations
  const int64_t* target;  // a target outside [0, vocab) gives NaN in its row
  int64_t rows;
  int64_t row_stride;     // elements
  int vocab;
  float inv_temperature;
  float softcap;          // 0 = none
  // Read by row_grad (all four) and row_stats_grad (c, e).
  const float* lse;
  const float* entropy;
  const float* c;         // dL/dlogprob
  const float* e;         // dL/dentropy, or null for zeros
  // Written by row_stats and row_stats_grad.
  float* out_logprob;
  float* out_entropy;
  float* out_lse;
  float* out_sum_p2;
  float* out_sum_p2_logp;
  uint8_t* out_greedy;    // 1: no logit of the row is larger than the target's
};

// Each returns the path taken, and throws std::invalid_argument when `path` cannot run this shape.
Path row_stats(const RowArgs& args, Dtype dtype, Path path, void* stream);
Path row_grad(const RowArgs& args, Dtype dtype, void* stream);
Path row_stats_grad(const RowArgs& args, Dtype dtype, Path path, void* stream);

// false: the row does not fit into a cluster here, or the device has none.
bool row_stats_cluster(const RowArgs& args, Dtype dtype, bool gradient, void* stream);

}  // namespace nsr
