// The row kernels of ../cuda built for the CPU (see simt.h), with a C interface for the tests.
#define NSR_SIMT_HOST
#include "../cuda/row_block.cu"
#include "../cuda/row_cluster.cu"

namespace {

// Path taken, or -1 with the reason in `message`.
template <class Run>
int guarded(char* message, size_t message_bytes, Run&& run) {
  try {
    return static_cast<int>(run());
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), message_bytes - 1);
    return -1;
  }
}

}  // namespace

extern "C" {

void nsr_simt_options(int order, int dropped_barrier, int compute_major, int64_t shared_limit) {
  simt::options = {order, dropped_barrier, compute_major, size_t(shared_limit)};
}

int nsr_simt_row_stats(const nsr::RowArgs* args, int dtype, int path, char* message, size_t size) {
  return guarded(message, size, [&] {
    return nsr::row_stats(*args, nsr::Dtype(dtype), nsr::Path(path), nullptr);
  });
}

int nsr_simt_row_grad(const nsr::RowArgs* args, int dtype, int, char* message, size_t size) {
  return guarded(message, size, [&] {
    return nsr::row_grad(*args, nsr::Dtype(dtype), nullptr);
  });
}

int nsr_simt_row_stats_grad(const nsr::RowArgs* args, int dtype, int path, char* message,
                            size_t size) {
  return guarded(message, size, [&] {
    return nsr::row_stats_grad(*args, nsr::Dtype(dtype), nsr::Path(path), nullptr);
  });
}

}  // extern "C"
