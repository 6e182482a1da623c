// One AdamW step on a state of 3 bytes (../adamw.h; kernels/adamw_8bit_reference.py is the definition):
// block by block of 256 elements, whose new first moments wait on the stack for their absmax. Results do
// not depend on the number of threads: blocks are independent.
#define NSR_DEVICE inline
#include "../dynamic_map.h"
#include "adamw_lanes.h"
#include "rows.h"

namespace {

using namespace nsr;

typedef int8_t vcode __attribute__((vector_size(kLanes)));

static_assert(kChunk % kQuantBlock == 0 && kQuantBlock % kLanes == 0);

inline vfloat magnitude(vfloat x) { return (vfloat)((vuint)x & 0x7fffffffu); }

// value(code) of the reference, n codes; the other lanes hold 0.
inline vfloat read_values(const int8_t* p, int64_t n) {
  vcode code{};
  std::memcpy(&code, p, n);
  const vfloat signed_k = __builtin_convertvector(code, vfloat), k = magnitude(signed_k);
  Decoding<vfloat> by;
  pick_decoding(k, by);
  const vfloat size = k > 0.0f ? (18.0f * k + by.shift) * by.unit : vfloat{};
  const vfloat with_sign = signed_k < 0.0f ? -size : size;
  return k == kOne ? splat(1.0f) : with_sign;
}

// nearest_code of the reference, n of them.
inline void write_codes(int8_t* p, int64_t n, vfloat y) {
  const vfloat size = magnitude(y);
  Encoding<vfloat> by;
  pick_encoding(size, by);
  const vfloat cut = size * by.scale + by.offset;
  const vfloat below_one = cut < by.last ? cut : by.last;
  const vfloat k = y >= kLargest ? splat(kOne) : below_one;
  const vint is_code = (size >= kSmallest) & (size < 2.0f);
  const vint whole = __builtin_convertvector(is_code ? k : vfloat{}, vint);
  const vcode code = __builtin_convertvector(y < 0.0f ? -whole : whole, vcode);
  std::memcpy(p, &code, n);
}

// Steps n elements, leaves their new first moments in m and raises `top` to the finite ones.
template <class W, class G>
[[gnu::always_inline]] inline void step_lanes(const Adamw8bitArgs& args, int64_t at, int64_t n,
                                              vuint lane, float absmax, float* m_out, vfloat& top) {
  const AdamwArgs& a = args.step;
  W* weight = static_cast<W*>(a.weight) + at;
  bfloat16* second = static_cast<bfloat16*>(args.exp_avg_sq) + at;
  const vfloat g = read(static_cast<const G*>(a.grad) + at, n) * a.grad_scale;
  vfloat m = read_values(args.code + at, n) * absmax;
  vfloat v = read(second, n), w = read(weight, n);
  move(w, g, m, v, a);
  store(m_out, m);
  const vfloat size = magnitude(m);
  top = (size > top) & (size < kInf) ? size : top;
  const vuint noise = rounding_bits(lane + static_cast<uint32_t>(at), a);
  write_half(second, n, v, noise >> 16);
  if constexpr (sizeof(W) == 4)
    write(weight, n, w);
  else
    write_half(weight, n, w, noise & 0xffffu);
}

template <class W, class G>
void step_block(const Adamw8bitArgs& args, int64_t begin, vuint lane) {
  const int64_t rest = args.step.count - begin, count = rest < kQuantBlock ? rest : kQuantBlock;
  float* const absmax = args.absmax + begin / kQuantBlock;
  float m[kQuantBlock];
  vfloat top{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    step_lanes<W, G>(args, begin + i, kLanes, lane, *absmax, m + i, top);
  if (i < count) step_lanes<W, G>(args, begin + i, count - i, lane, *absmax, m + i, top);
  float largest = 0.0f;
  for (int k = 0; k < kLanes; ++k) largest = top[k] > largest ? top[k] : largest;
  *absmax = largest;
  const float inverse = 1.0f / largest;
  for (i = 0; i + kLanes <= count; i += kLanes)
    write_codes(args.code + begin + i, kLanes, load(m + i) * inverse);
  if (i < count) write_codes(args.code + begin + i, count - i, load(m + i) * inverse);
}

template <class W, class G>
void step_all(const Adamw8bitArgs& args, int num_threads) {
  const int64_t chunks = (args.step.count + kChunk - 1) / kChunk;
  const int threads = threads_for(chunks, num_threads);
  const vuint lane = lane_numbers();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Adamw8bitArgs a = args;  // a copy, which no store below can be taken to change
    const int64_t begin = chunk * kChunk, rest = a.step.count - begin;
    const int64_t stop = begin + (rest < kChunk ? rest : kChunk);
    for (int64_t at = begin; at < stop; at += kQuantBlock) step_block<W, G>(a, at, lane);
  }
}

void step(const Adamw8bitArgs& args, int num_threads) {
  const AdamwArgs& a = args.step;
  if (!(__builtin_fabsf(a.grad_scale) < kInf)) return;
  if (a.is_weight_half)
    (a.is_grad_half ? step_all<bfloat16, bfloat16> : step_all<bfloat16, float>)(args, num_threads);
  else
    (a.is_grad_half ? step_all<float, bfloat16> : step_all<float, float>)(args, num_threads);
}

}  // namespace

#define NSR_JOIN_(a, b) a##b
#define NSR_JOIN(a, b) NSR_JOIN_(a, b)

const nsr::Adamw8bitKernel nsr::NSR_JOIN(adamw_8bit_, NSR_ISA) = {step};
