// Interface between the binding and the kernels, which are compiled once per instruction set.
#pragma once
#include <cstdint>

#include "../adamw.h"

namespace nsr {

enum class TileType : int { float32 = 0, bfloat16 = 1 };

// One tile of logits [rows, vocab], unit stride along vocab; `stride` counts elements.
struct Tile {
  void* logits;
  int64_t rows, vocab, stride;
  TileType type;
  const int64_t* target;  // [rows] in [0, vocab), checked by the caller
  float temperature;
  float softcap;  // 0: none
  int num_threads;
};

// All [rows]; greedy holds 0 or 1.
struct StatsOut {
  float *logprob, *entropy, *lse, *sum_p2, *sum_p2_logp;
  uint8_t* greedy;
};

// dL/dlogprob and dL/dentropy of each row; e may be null.
struct Coefficients {
  const float *c, *e;
};

// What row_grad reads beside the logits.
struct Saved {
  const float *lse, *entropy;
};

struct RowKernels {
  const char* isa;
  void (*stats)(const Tile&, const StatsOut&);
  void (*grad)(const Tile&, const Saved&, const Coefficients&);
  void (*stats_grad)(const Tile&, const StatsOut&, const Coefficients&);
};

// Defined by rows.cpp, one per object; the last two exist on x86-64 only.
extern const RowKernels kernels_baseline, kernels_avx2, kernels_avx512;

struct AdamwKernels {
  void (*step)(const AdamwArgs&, int num_threads);
  double (*sum_of_squares)(const void*, int64_t count, bool is_half, int num_threads);
};

// Defined by adamw.cpp.
extern const AdamwKernels adamw_baseline, adamw_avx2, adamw_avx512;

struct Adamw8bitKernel {
  void (*step)(const Adamw8bitArgs&, int num_threads);
};

// Defined by adamw_8bit.cpp.
extern const Adamw8bitKernel adamw_8bit_baseline, adamw_8bit_avx2, adamw_8bit_avx512;

}  // namespace nsr
