// The AdamW kernels of ../cuda built for the CPU (see simt.h), with a C interface for the tests.
#define NSR_SIMT_HOST
#include "../cuda/adamw.cu"
#include "../cuda/adamw_8bit.cu"

namespace {

// 0, or 1 with the reason in `message`.
template <class Run>
int guarded(int order, char* message, size_t size, Run&& run) {
  simt::options.order = order;
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), size - 1);
    return 1;
  }
}

}  // namespace

extern "C" {

int64_t nsr_simt_adamw_bytes() { return sizeof(nsr::AdamwArgs); }
int64_t nsr_simt_adamw_8bit_bytes() { return sizeof(nsr::Adamw8bitArgs); }

int nsr_simt_adamw(const nsr::AdamwArgs* args, int order, char* message, size_t size) {
  return guarded(order, message, size, [&] { nsr::adamw_step(*args, nullptr); });
}

int nsr_simt_adamw_8bit(const nsr::Adamw8bitArgs* args, int order, char* message, size_t size) {
  return guarded(order, message, size, [&] { nsr::adamw_8bit_step(*args, nullptr); });
}

}  // extern "C"
