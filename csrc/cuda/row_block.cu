// Row operations with one block per row: every GPU from sm_80 on.
//
// Each element is read once by row_stats, read and written by row_grad, read twice and written by
// row_stats_grad (the second time backwards, so that the row's end comes from the L2 cache).
#include "row_sweep.cuh"

namespace nsr {
namespace {

template <class T, bool kCapped, bool kGradient>
__global__ void __launch_bounds__(kMaxThreads, 2) stats_kernel(const RowArgs args) {
  const int64_t row_index = blockIdx.x;
  const Row<T> row(args, row_index);
  const Softcap<kCapped> softcap(args.softcap);
  const float scale = args.inv_temperature * kLog2e;
  const float target_logit = row.target_logit(args, row_index);

  RowSums sums = RowSums::empty();
  sweep<false>(row.packs(), 0, row.num_packs, [&](const uint4& vector, int) {
    float z[kPack<T>];
    unpack(vector, z, T{});
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) z[i] = softcap.value(z[i]);
    sums.add(z, scale);
  });
  add_edge(sums, row, softcap, scale);
  sums = merge_block(sums, static_cast<RowSums*>(dynamic_shared()), scale);
  if (threadIdx.x == 0) write_stats(args, row_index, sums, softcap.value(target_logit));

  if constexpr (kGradient) {
    const RowGradient<kCapped> gradient(args, row_index, sums.max, logf(sums.sum),
                                        entropy_of(sums));
    if (gradient.is_zero()) {
      write_zeros(row, 0, row.num_packs, true);
    } else {
      write_gradient<true>(row, row.packs(), 0, row.num_packs, true, gradient, target_logit);
    }
  }
}

template <class T, bool kCapped>
__global__ void __launch_bounds__(kMaxThreads, 2) grad_kernel(const RowArgs args) {
  const int64_t row_index = blockIdx.x;
  const Row<T> row(args, row_index);
  const RowGradient<kCapped> gradient(args, row_index, 0.f, args.lse[row_index],
                                      args.entropy[row_index]);
  if (gradient.is_zero()) {
    write_zeros(row, 0, row.num_packs, true);
  } else {
    const float target_logit = row.target_logit(args, row_index);
    write_gradient<false>(row, row.packs(), 0, row.num_packs, true, gradient, target_logit);
  }
}

using Kernel = void (*)(RowArgs);

template <class T, bool kCapped>
Kernel pick_operation(bool stats, bool gradient) {
  if (!stats) return grad_kernel<T, kCapped>;
  return gradient ? stats_kernel<T, kCapped, true> : stats_kernel<T, kCapped, false>;
}

template <class T>
Kernel pick(bool capped, bool stats, bool gradient) {
  return capped ? pick_operation<T, true>(stats, gradient)
                : pick_operation<T, false>(stats, gradient);
}

void launch_blocks(const RowArgs& args, Dtype dtype, bool stats, bool gradient, void* stream) {
  const bool capped = args.softcap > 0.f;
  const Kernel kernel = dtype == Dtype::kFloat32    ? pick<float>(capped, stats, gradient)
                        : dtype == Dtype::kBFloat16 ? pick<BFloat16>(capped, stats, gradient)
                                                    : pick<Float16>(capped, stats, gradient);
  const int threads = args.vocab >= 4096 ? kMaxThreads : 128;
  launch(kernel, {args.rows, threads, 1, kMaxWarps * sizeof(RowSums), stream}, args);
}

Path run_stats(const RowArgs& args, Dtype dtype, Path path, bool gradient, void* stream) {
  // row_stats reads the row once on either path: a cluster only helps to fill the GPU.
  const bool worthwhile = gradient || args.rows < 2 * num_multiprocessors();
  const bool wanted = path == Path::kCluster || (path == Path::kAuto && worthwhile);
  if (wanted && row_stats_cluster(args, dtype, gradient, stream)) return Path::kCluster;
  if (path == Path::kCluster) {
    throw std::invalid_argument("path: no thread-block cluster here can hold a row of " +
                                std::to_string(args.vocab) + " logits");
  }
  launch_blocks(args, dtype, true, gradient, stream);
  return Path::kBlock;
}

}  // namespace

Path row_stats(const RowArgs& args, Dtype dtype, Path path, void* stream) {
  return run_stats(args, dtype, path, false, stream);
}

Path row_stats_grad(const RowArgs& args, Dtype dtype, Path path, void* stream) {
  return run_stats(args, dtype, path, true, stream);
}

Path row_grad(const RowArgs& args, Dtype dtype, void* stream) {
  launch_blocks(args, dtype, false, true, stream);
  return Path::kBlock;
}

}  // namespace nsr
