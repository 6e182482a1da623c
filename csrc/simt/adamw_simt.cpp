// The AdamW kernel of ../cuda built for the CPU (see simt.h), with a C interface for the tests.
#define NSR_SIMT_HOST
#include "../cuda/adamw.cu"

extern "C" {

int64_t nsr_simt_adamw_bytes() { return sizeof(nsr::AdamwArgs); }

// 0, or 1 with the reason in `message`.
int nsr_simt_adamw(const nsr::AdamwArgs* args, int order, char* message, size_t size) {
  simt::options.order = order;
  try {
    nsr::adamw_step(*args, nullptr);
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), size - 1);
    return 1;
  }
}

}  // extern "C"
