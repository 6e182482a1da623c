// How the threads of a block walk over one row: 16-byte vectors where the address allows, at most
// one element per thread before and after them, so any vocabulary size and row stride will do.
#pragma once

#include "row_math.cuh"

namespace nsr {

constexpr int kMaxThreads = 512;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kUnroll = 4;  // vectors a thread loads before it uses the first

template <class T>
struct Row {
  T* data;
  int vocab, head, num_packs;  // [0, head) | num_packs vectors | the rest

  NSR_DEVICE Row(const RowArgs& args, int64_t row)
      : data(static_cast<T*>(args.logits) + row * args.row_stride), vocab(args.vocab) {
    const int misaligned = int(reinterpret_cast<uintptr_t>(data) & 15u);
    head = min(vocab, misaligned ? (16 - misaligned) / int(sizeof(T)) : 0);
    num_packs = (vocab - head) / kPack<T>;
  }
  NSR_DEVICE uint4* packs() const { return reinterpret_cast<uint4*>(data + head); }
  // The vector that holds an element, or -1.
  NSR_DEVICE int pack_of(int element) const {
    const int pack = element < head ? -1 : (element - head) / kPack<T>;
    return pack < num_packs ? pack : -1;
  }

  // The element outside the vectors that this thread owns, or -1.
  NSR_DEVICE int edge() const {
    const int thread = int(threadIdx.x);
    const int index = thread < head ? thread : thread + num_packs * kPack<T>;
    return index < vocab && thread < 2 * kPack<T> ? index : -1;
  }
  NSR_DEVICE float target_logit(const RowArgs& args, int64_t row) const {
    const int64_t y = args.target[row];
    return y >= 0 && y < vocab ? to_float(data[y]) : not_a_number();
  }
};

// visit(vector, index) for every index in [begin, end). Backwards, a second sweep starts with what
// the first one left in the cache.
template <bool kBackwards, class Visit>
NSR_DEVICE void sweep(const uint4* packs, int begin, int end, Visit&& visit) {
  const int threads = int(blockDim.x);
  for (int start = begin + int(threadIdx.x); start < end; start += kUnroll * threads) {
    uint4 loaded[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = start + u * threads;
      if (at < end) loaded[u] = packs[kBackwards ? begin + end - 1 - at : at];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = start + u * threads;
      if (at < end) visit(loaded[u], kBackwards ? begin + end - 1 - at : at);
    }
  }
}

template <class T, bool kCapped>
NSR_DEVICE void add_edge(RowSums& sums, const Row<T>& row, const Softcap<kCapped>& softcap,
                         float scale) {
  if (row.edge() < 0) return;
  const float z[1] = {softcap.value(to_float(row.data[row.edge()]))};
  sums.add(z, scale);
}

// A row of exact zeros, unread.
template <class T>
NSR_DEVICE void write_zeros(const Row<T>& row, int begin, int end, bool with_edge) {
  for (int i = begin + int(threadIdx.x); i < end; i += int(blockDim.x)) row.packs()[i] = uint4{};
  if (with_edge && row.edge() >= 0) store(row.data + row.edge(), 0.f);
}

// Gradient of vectors [begin, end), read from `from` (the row itself or its copy), written to the
// row. The target's entry is written again by the same thread: a test in the loop costs registers.
template <bool kBackwards, class T, bool kCapped>
NSR_DEVICE void write_gradient(const Row<T>& row, const uint4* from, int begin, int end,
                               bool with_edge, const RowGradient<kCapped>& gradient,
                               float target_logit) {
  sweep<kBackwards>(from, begin, end, [&](const uint4& vector, int index) {
    float value[kPack<T>];
    unpack(vector, value, T{});
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) value[i] = gradient.entry(value[i]);
    row.packs()[index] = pack(value, T{});
  });
  const int edge = with_edge ? row.edge() : -1, target = gradient.target;
  if (edge >= 0) store(row.data + edge, gradient.entry(to_float(row.data[edge])));
  const int index = row.pack_of(target), at = kBackwards ? end - 1 - index : index - begin;
  const bool in_share = begin <= index && index < end;
  const bool is_mine = in_share && at % int(blockDim.x) == int(threadIdx.x);
  if (is_mine || (target >= 0 && target == edge)) {
    store(row.data + target, gradient.target_entry(target_logit));
  }
}

// Sums of the block, in every thread. scratch: [kMaxWarps], used once per kernel.
NSR_DEVICE RowSums merge_block(RowSums sums, RowSums* scratch, float scale) {
  const int thread = int(threadIdx.x), lane = thread % kWarp, num_warps = int(blockDim.x) / kWarp;
  sums = merge_warp(sums, scale);
  if (lane == 0) scratch[thread / kWarp] = sums;
  NSR_SYNC_BLOCK(1);
  return merge_warp(lane < num_warps ? scratch[lane] : RowSums::empty(), scale);
}

}  // namespace nsr
