// One AdamW step on a state of 3 bytes (../adamw.h; kernels/adamw_8bit_reference.py is the definition):
// block by block of 256 elements, whose new first moments wait on the stack for their absmax. Results do
// not depend on the number of threads: blocks are independent.
#include "../dynamic_map.h"
#include "adamw_lanes.h"
#include "rows.h"

namespace {

using namespace nsr;

typedef int8_t vcode __attribute__((vector_size(kLanes)));
typedef int16_t vshort __attribute__((vector_size(kLanes * 2)));

// By way of 16 bits: gcc 12 takes a direct conversion apart into scalars.
inline vint widen(vcode x) {
  return __builtin_convertvector(__builtin_convertvector(x, vshort), vint);
}
inline vcode narrow(vint x) {
  return __builtin_convertvector(__builtin_convertvector(x, vshort), vcode);
}

static_assert(kChunk % kQuantBlock == 0 && kQuantBlock % kLanes == 0);

// Entry i of eight, in each lane: one instruction from AVX2 on.
struct Table {
  float entry[16];  // twice the eight
  constexpr explicit Table(const float (&eight)[8]) : entry() {
    for (int i = 0; i < 16; ++i) entry[i] = eight[i % 8];
  }
  vfloat operator[](vint i) const {
#if defined(__AVX2__)
    return __builtin_shuffle(load(entry), i);
#else
    return __builtin_shuffle(load(entry), load(entry + 4), i);
#endif
  }
};

// A member of Decade for all seven; the eighth is that of code 128, whose sign is the other one.
#define NSR_TABLE(member, eighth)                                                           \
  Table({Decade<0>::member, Decade<1>::member, Decade<2>::member, Decade<3>::member,        \
         Decade<4>::member, Decade<5>::member, Decade<6>::member, eighth})

constexpr Table kShifts = NSR_TABLE(kShift, 1.0f - 18.0f * kOne), kUnits = NSR_TABLE(kUnit, -1.0f),
                kScales = NSR_TABLE(kScale, 0.0f), kOffsets = NSR_TABLE(kOffset, 0.0f),
                kLasts = NSR_TABLE(kLast, 0.0f), kFloors = NSR_TABLE(kFloor, 0.0f);

inline vfloat magnitude(vfloat x) { return (vfloat)((vuint)x & 0x7fffffffu); }

// value(code) of the reference, n codes; the other lanes hold 0. The exponent of k is its decade.
inline vfloat read_values(const int8_t* p, int64_t n) {
  vcode code{};
  std::memcpy(&code, p, n);
  const vfloat signed_k = __builtin_convertvector(widen(code), vfloat), k = magnitude(signed_k);
  const vint decade = (((vint)k >> 23) - 127) & 7;
  const vfloat size = (18.0f * k + kShifts[decade]) * kUnits[decade];
  const vfloat with_sign = (vfloat)((vuint)size ^ ((vuint)signed_k & 0x80000000u));
  return k > 0.0f ? with_sign : vfloat{};
}

// nearest_code of the reference, n of them.
inline void write_codes(int8_t* p, int64_t n, vfloat y) {
  const vfloat size = magnitude(y);
  vint decade{};
  for (int i = 1; i < 7; ++i) decade -= size >= kFloors.entry[i];
  const vfloat last = kLasts[decade], cut = size * kScales[decade] + kOffsets[decade];
  const vfloat below_one = cut < last ? cut : last;
  const vfloat k = y >= kLargest ? splat(kOne) : below_one;
  const vint is_code = (size >= kSmallest) & (size < 2.0f);
  const vint whole = __builtin_convertvector(is_code ? k : vfloat{}, vint);
  const vcode code = narrow(y < 0.0f ? -whole : whole);
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
