// One AdamW step on CPU memory (../adamw.h): every array is read once and written once, in vectors of
// the instruction set it is compiled for. Compiled with -ffp-contract=off, so that each product and sum
// is rounded as kernels/adamw_reference.py rounds it. Elements are independent and partial sums of the
// norm belong to fixed chunks, so results do not depend on the number of threads.
#include <vector>

#include "adamw_lanes.h"
#include "rows.h"

namespace {

using namespace nsr;

template <class W, class G, bool HAS_MASTER>
[[gnu::always_inline]] inline void step_lanes(const AdamwArgs& a, int64_t at, int64_t n, vuint lane) {
  W* weight = static_cast<W*>(a.weight) + at;
  const vfloat g = read(static_cast<const G*>(a.grad) + at, n) * a.grad_scale;
  vfloat m = read(a.exp_avg + at, n);
  vfloat v = read(a.exp_avg_sq + at, n);
  vfloat w = HAS_MASTER ? read(a.master + at, n) : read(weight, n);
  move(w, g, m, v, a);
  write(a.exp_avg + at, n, m);
  write(a.exp_avg_sq + at, n, v);
  if (HAS_MASTER) write(a.master + at, n, w);
  if constexpr (sizeof(W) == 4) {
    write(weight, n, w);
  } else if constexpr (HAS_MASTER) {
    write_half(weight, n, w, (((vuint)w >> 16) & 1u) + 0x7fffu);
  } else {
    write_half(weight, n, w, rounding_bits(lane + static_cast<uint32_t>(at), a) & 0xffffu);
  }
}

template <class W, class G, bool HAS_MASTER>
void step_all(const AdamwArgs& args, int num_threads) {
  const int64_t chunks = (args.count + kChunk - 1) / kChunk;
  const int threads = threads_for(chunks, num_threads);
  const vuint lane = lane_numbers();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const AdamwArgs a = args;  // a copy, which no store below can be taken to change
    int64_t i = chunk * kChunk;
    const int64_t stop = a.count < i + kChunk ? a.count : i + kChunk;
    for (; i + kLanes <= stop; i += kLanes) step_lanes<W, G, HAS_MASTER>(a, i, kLanes, lane);
    if (i < stop) step_lanes<W, G, HAS_MASTER>(a, i, stop - i, lane);
  }
}

template <class G>
void step_with(const AdamwArgs& a, int num_threads) {
  if (!a.is_weight_half)
    step_all<float, G, false>(a, num_threads);
  else if (a.master)
    step_all<bfloat16, G, true>(a, num_threads);
  else
    step_all<bfloat16, G, false>(a, num_threads);
}

void step(const AdamwArgs& a, int num_threads) {
  if (!(__builtin_fabsf(a.grad_scale) < kInf)) return;
  (a.is_grad_half ? step_with<bfloat16> : step_with<float>)(a, num_threads);
}

template <class T>
double sum_chunk(const T* x, int64_t n) {
  vfloat sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) {
      const vfloat part = load(x + i + k * kLanes);
      sum[k] += part * part;
    }
  for (; i < n; i += kLanes) {
    const vfloat part = read(x + i, n - i < kLanes ? n - i : kLanes);
    sum[0] += part * part;
  }
  return static_cast<double>(sum_lanes(sum[0])) + sum_lanes(sum[1]) + sum_lanes(sum[2]) +
         sum_lanes(sum[3]);
}

template <class T>
double sum_all(const T* x, int64_t count, int num_threads) {
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  const int threads = threads_for(chunks, num_threads);
  std::vector<double> part(chunks);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kChunk, rest = count - begin;
    part[chunk] = sum_chunk(x + begin, rest < kChunk ? rest : kChunk);
  }
  double total = 0.0;
  for (double value : part) total += value;
  return total;
}

double sum_of_squares(const void* x, int64_t count, bool is_half, int num_threads) {
  return is_half ? sum_all(static_cast<const bfloat16*>(x), count, num_threads)
                 : sum_all(static_cast<const float*>(x), count, num_threads);
}

}  // namespace

#define NSR_JOIN_(a, b) a##b
#define NSR_JOIN(a, b) NSR_JOIN_(a, b)

const nsr::AdamwKernels nsr::NSR_JOIN(adamw_, NSR_ISA) = {step, sum_of_squares};
