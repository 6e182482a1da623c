// Row operations with one thread-block cluster per row: sm_90 and later.
//
// The blocks split the row's vectors. For the gradient each block keeps its part in shared memory,
// so an element is read from device memory once and written once. The blocks exchange their sums
// through distributed shared memory; all merge them in the same order and get the same bits.
#include "row_sweep.cuh"

namespace nsr {
namespace {

constexpr int kMaxCluster = 8;  // the largest portable size
constexpr int kClusterThreads = 256;
// Four blocks of this size share a multiprocessor of sm_90. Where a row needs larger ones, two
// share it, with twice the threads each.
constexpr size_t kGoodShared = 40 * 1024;
constexpr size_t kLargeShared = 56 * 1024;

struct Scratch {
  RowSums of_block;
  RowSums of_warp[kMaxWarps];
};
constexpr size_t kCacheOffset = (sizeof(Scratch) + 15) / 16 * 16;

struct ClusterArgs {
  RowArgs row;
  int cluster;
};

// Sums of the cluster, in every thread of every block.
#ifdef NSR_HAS_CLUSTER
NSR_DEVICE RowSums merge_cluster(const RowSums& of_block, Scratch* scratch, int cluster,
                                 float scale) {
  const int lane = int(threadIdx.x) % kWarp;
  if (threadIdx.x == 0) scratch->of_block = of_block;
  NSR_CLUSTER_ARRIVE(2);
  NSR_CLUSTER_WAIT(2);
  RowSums sums = RowSums::empty();
  if (lane < cluster) sums = *cluster_shared(&scratch->of_block, lane);
  return merge_warp(sums, scale);
}
#endif

template <class T, bool kCapped, bool kGradient>
__global__ void __launch_bounds__(kMaxThreads, 2) cluster_kernel(const ClusterArgs all) {
#ifdef NSR_HAS_CLUSTER
  const RowArgs& args = all.row;
  const int cluster = all.cluster, rank = int(blockIdx.x) % cluster;
  const int64_t row_index = blockIdx.x / cluster;
  const Row<T> row(args, row_index);
  const int share = (row.num_packs + cluster - 1) / cluster;
  const int begin = min(rank * share, row.num_packs), end = min(begin + share, row.num_packs);
  const Softcap<kCapped> softcap(args.softcap);
  const float scale = args.inv_temperature * kLog2e;
  const float target_logit = row.target_logit(args, row_index);
  Scratch* scratch = static_cast<Scratch*>(dynamic_shared());
  // Indexed like the row's vectors; a thread reads back only what it wrote itself.
  uint4* cache = static_cast<uint4*>(dynamic_shared()) + kCacheOffset / sizeof(uint4) - begin;

  RowSums sums = RowSums::empty();
  if constexpr (kGradient) {
    sweep<false>(row.packs(), begin, end, [&](const uint4& vector, int index) {
      cache[index] = vector;
      float z[kPack<T>];
      unpack(vector, z, T{});
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) sums.max = fmaxf(sums.max, z[i]);
    });
    sums.max = softcap.value(sums.max);
    for (int index = begin + int(threadIdx.x); index < end; index += int(blockDim.x)) {
      float z[kPack<T>];
      unpack(cache[index], z, T{});
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) z[i] = softcap.value(z[i]);
      sums.add_below(z, scale);
    }
  } else {
    sweep<false>(row.packs(), begin, end, [&](const uint4& vector, int) {
      float z[kPack<T>];
      unpack(vector, z, T{});
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) z[i] = softcap.value(z[i]);
      sums.add(z, scale);
    });
  }
  if (rank == 0) add_edge(sums, row, softcap, scale);
  sums = merge_block(sums, scratch->of_warp, scale);
  sums = merge_cluster(sums, scratch, cluster, scale);
  NSR_CLUSTER_ARRIVE(3);
  if (rank == 0 && threadIdx.x == 0) {
    write_stats(args, row_index, sums, softcap.value(target_logit));
  }

  if constexpr (kGradient) {
    const RowGradient<kCapped> gradient(args, row_index, sums.max, logf(sums.sum),
                                        entropy_of(sums));
    if (gradient.is_zero()) {
      write_zeros(row, begin, end, rank == 0);
    } else {
      write_gradient<false>(row, cache, begin, end, rank == 0, gradient, target_logit);
    }
  }
  NSR_CLUSTER_WAIT(3);  // no block leaves while another may read its sums
#endif
}

template <class T, bool kCapped>
bool launch_sized(const RowArgs& args, bool gradient, void* stream) {
  const size_t num_packs = size_t(args.vocab) / kPack<T>;
  int cluster = 1;
  size_t shared = 0;
  for (;; cluster *= 2) {
    shared = kCacheOffset + (gradient ? (num_packs + cluster - 1) / cluster * 16 : 0);
    const bool is_small = num_packs / cluster <= 4 * kClusterThreads;
    if (cluster == kMaxCluster || (gradient ? shared <= kGoodShared : is_small)) break;
  }
  if (shared > shared_limit()) return false;
  const int threads = shared > kLargeShared        ? kMaxThreads
                      : num_packs / cluster >= 512 ? kClusterThreads
                                                   : 64;
  auto* kernel = gradient ? cluster_kernel<T, kCapped, true> : cluster_kernel<T, kCapped, false>;
  const LaunchShape shape = {args.rows * cluster, threads, cluster, shared, stream};
  return launch<ClusterArgs>(kernel, shape, {args, cluster});
}

template <class T>
bool launch_cluster(const RowArgs& args, bool gradient, void* stream) {
  return args.softcap > 0.f ? launch_sized<T, true>(args, gradient, stream)
                            : launch_sized<T, false>(args, gradient, stream);
}

}  // namespace

bool row_stats_cluster(const RowArgs& args, Dtype dtype, bool gradient, void* stream) {
  if (compute_major() < 9) return false;
  if (dtype == Dtype::kFloat32) return launch_cluster<float>(args, gradient, stream);
  if (dtype == Dtype::kBFloat16) return launch_cluster<BFloat16>(args, gradient, stream);
  return launch_cluster<Float16>(args, gradient, stream);
}

}  // namespace nsr
