// Runs CUDA kernels on the CPU: the scheduler. device.h beside it gives kernels the names they use.
//
// Every CUDA thread is a ucontext fibre on one operating-system thread. Barriers and shuffles are
// real rendezvous; the blocks of a cluster run together and see each other's shared memory. The
// scheduler lets one warp run as far as it can before the next, in a chosen order, and so a missing
// barrier shows. Shared memory starts as NaN bytes, becomes so again when its block has left, and
// ends in a guard. Reported: divergence and deadlock at a barrier, a write past shared memory; with
// -fsanitize=alignment a misaligned vector traps. Not proven by it: the memory model, speed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace simt {

struct Index { unsigned x; };

enum Order : int { kForward = 0, kReverse = 1 };  // any larger number seeds a shuffle

struct Options {
  int order = kForward;
  int dropped_barrier = 0;  // the barrier with this number does nothing
  int compute_major = 9;
  size_t shared_limit = 227 * 1024;
};
inline Options options;

constexpr int kLanes = 32;  // blocks are whole warps

struct Rendezvous {
  int expected = kLanes, arrived = 0, site = 0;
  uint64_t generation = 0;
};

constexpr size_t kStackBytes = 32 * 1024, kGuardBytes = 64, kAlignBytes = 16;
constexpr int kPoison = 0xff, kGuard = 0xa5;

struct Block {
  Index index;
  Rendezvous barrier;
  std::vector<unsigned char> memory;  // shared memory, then the guard
  size_t shared_bytes = 0;
  int running = 0;
  unsigned char* shared() {
    auto address = reinterpret_cast<uintptr_t>(memory.data());
    return memory.data() + (kAlignBytes - address % kAlignBytes) % kAlignBytes;
  }
};

struct Warp {
  Rendezvous shuffle;
  unsigned char slot[2][kLanes][64];  // two turns: a fast lane may already deposit its next value
};

struct Fibre {
  ucontext_t context;
  Index thread;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Rendezvous* waits_for = nullptr;
  uint64_t waits_since = 0, cluster_since = 0;
  bool cluster_pending = false, done = false;
  bool runnable() const { return !done && (!waits_for || waits_for->generation != waits_since); }
};

inline thread_local Fibre* current = nullptr;
inline thread_local ucontext_t scheduler;
inline thread_local Index block_dim;
inline thread_local std::vector<Block>* cluster_blocks = nullptr;
inline thread_local Rendezvous* cluster_barrier = nullptr;
inline thread_local std::function<void()> body;
inline thread_local std::string failure;

inline void to_scheduler() { swapcontext(&current->context, &scheduler); }

// An exception cannot cross a fibre: note the text, the scheduler throws it.
[[noreturn]] inline void fail(const std::string& text) {
  failure = text + " (block " + std::to_string(current->block->index.x) + ", thread " +
            std::to_string(current->thread.x) + ")";
  for (;;) to_scheduler();
}

inline uint64_t arrive(Rendezvous& at, int site) {
  if (at.arrived > 0 && at.site != site) {
    fail("barrier divergence: barrier " + std::to_string(site) + " reached while others wait at " +
         std::to_string(at.site));
  }
  at.site = site;
  const uint64_t since = at.generation;
  if (++at.arrived == at.expected) {
    at.arrived = 0;
    ++at.generation;
  }
  return since;
}

inline void wait(Rendezvous& at, uint64_t since) {
  if (at.generation != since) return;
  current->waits_for = &at;
  current->waits_since = since;
  to_scheduler();
  current->waits_for = nullptr;
}

inline void sync_block(int site) {
  if (site == options.dropped_barrier) return;
  wait(current->block->barrier, arrive(current->block->barrier, site));
}

inline void cluster_arrive(int site) {
  if (site == options.dropped_barrier) return;
  if (current->cluster_pending) fail("cluster barrier: arrived twice without waiting");
  current->cluster_pending = true;
  current->cluster_since = arrive(*cluster_barrier, site);
}

inline void cluster_wait(int site) {
  if (site == options.dropped_barrier) return;
  if (!current->cluster_pending) fail("cluster barrier: waited without arriving");
  current->cluster_pending = false;
  wait(*cluster_barrier, current->cluster_since);
}

inline void fibre_main() {
  body();
  current->done = true;
  Block& block = *current->block;
  if (--block.running == 0) {
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (block.shared()[block.shared_bytes + i] != kGuard) fail("write past shared memory");
    }
    std::memset(block.shared(), kPoison, block.shared_bytes);
  }
  for (;;) to_scheduler();
}

inline void resume(Fibre& fibre) {
  current = &fibre;
  swapcontext(&scheduler, &fibre.context);
  if (!failure.empty()) throw std::runtime_error("simt: " + std::exchange(failure, {}));
}

// Run one warp until each of its lanes has left or waits for another warp.
inline bool run_warp(Fibre* lanes, bool reverse) {
  bool any = false, again = true;
  while (again) {
    again = false;
    for (int i = 0; i < kLanes; ++i) {
      Fibre& fibre = lanes[reverse ? kLanes - 1 - i : i];
      if (!fibre.runnable()) continue;
      resume(fibre);
      any = again = true;
    }
  }
  return any;
}

inline std::string describe(const std::vector<Fibre>& fibres) {
  int left = 0, waiting = 0, site = 0;
  for (const Fibre& fibre : fibres) {
    left += fibre.done;
    waiting += !fibre.done;
    if (fibre.waits_for) site = fibre.waits_for->site;
  }
  return "simt: deadlock: " + std::to_string(waiting) + " threads wait (barrier " +
         std::to_string(site) + "), " + std::to_string(left) + " have left";
}

inline void schedule(std::vector<Fibre>& fibres) {
  const int num_warps = int(fibres.size()) / kLanes;
  std::vector<int> order(num_warps);
  for (int i = 0; i < num_warps; ++i) order[i] = options.order == kReverse ? num_warps - 1 - i : i;
  std::mt19937 random(options.order);
  for (;;) {
    if (options.order > kReverse) std::shuffle(order.begin(), order.end(), random);
    const bool reverse = options.order == kReverse || (options.order > kReverse && random() % 2);
    bool progress = false;
    for (int i = 0; i < num_warps && !progress; ++i) {
      progress = run_warp(&fibres[order[i] * kLanes], reverse);
    }
    if (progress) continue;
    for (const Fibre& fibre : fibres) {
      if (!fibre.done) throw std::runtime_error(describe(fibres));
    }
    return;
  }
}

// Stack number i, kept for the next launch.
inline unsigned char* stack(size_t i) {
  static thread_local std::vector<std::unique_ptr<unsigned char[]>> stacks;
  while (stacks.size() <= i) stacks.emplace_back(new unsigned char[kStackBytes]);
  return stacks[i].get();
}

inline void start(Fibre& fibre, size_t number, Block& block, Warp& warp, int thread) {
  fibre.block = &block;
  fibre.warp = &warp;
  fibre.thread.x = unsigned(thread);
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = stack(number);
  fibre.context.uc_stack.ss_size = kStackBytes;
  fibre.context.uc_link = &scheduler;
  makecontext(&fibre.context, fibre_main, 0);
}

// The blocks of one cluster, from the first instruction of `body` to the last.
inline void run_cluster(int64_t first_block, int cluster, int threads, size_t shared_bytes) {
  const int warps = threads / kLanes;
  std::vector<Block> blocks(cluster);
  std::vector<Warp> warp(size_t(cluster) * warps);
  std::vector<Fibre> fibres(size_t(cluster) * threads);
  Rendezvous barrier;
  barrier.expected = cluster * threads;
  block_dim.x = unsigned(threads);
  cluster_blocks = &blocks;
  cluster_barrier = &barrier;
  for (int b = 0; b < cluster; ++b) {
    Block& block = blocks[b];
    block.index.x = unsigned(first_block + b);
    block.barrier.expected = block.running = threads;
    block.shared_bytes = shared_bytes;
    block.memory.resize(shared_bytes + kGuardBytes + kAlignBytes);
    std::memset(block.shared(), kPoison, shared_bytes);
    std::memset(block.shared() + shared_bytes, kGuard, kGuardBytes);
    for (int t = 0; t < threads; ++t) {
      const size_t number = size_t(b) * threads + t;
      start(fibres[number], number, block, warp[size_t(b) * warps + t / kLanes], t);
    }
  }
  schedule(fibres);
}

}  // namespace simt
