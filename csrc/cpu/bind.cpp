// nsr_fast._cpu: the CPU kernels behind raw addresses and integers, free of torch headers. The Python
// side (kernels/rows_cpu.py, kernels/adamw.py) checks shapes, dtypes and targets; here only what C++ itself
// relies on.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../adamw_bind.h"
#include "rows.h"

namespace py = pybind11;
using namespace nsr;

namespace {

struct Kernels {
  const RowKernels& rows;
  const AdamwKernels& adamw;
  const Adamw8bitKernel& adamw_8bit;
};

// Fastest first.
std::vector<Kernels> supported() {
  std::vector<Kernels> list;
#ifdef NSR_HAS_X86_ISAS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    list.push_back({kernels_avx512, adamw_avx512, adamw_8bit_avx512});
  if (avx2) list.push_back({kernels_avx2, adamw_avx2, adamw_8bit_avx2});
#endif
  list.push_back({kernels_baseline, adamw_baseline, adamw_8bit_baseline});
  return list;
}

const Kernels& choose(const std::string& isa) {
  static const std::vector<Kernels> list = supported();
  for (const Kernels& kernels : list)
    if (isa == "auto" || isa == kernels.rows.isa) return kernels;
  throw std::invalid_argument("isa: '" + isa + "' is not supported by this CPU");
}

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Tile make_tile(uintptr_t logits, int64_t rows, int64_t vocab, int64_t stride, int type,
               uintptr_t target, float temperature, float softcap, int num_threads) {
  if (type != 0 && type != 1) throw std::invalid_argument("type: expected 0 (float32) or 1 (bfloat16)");
  if (rows < 0 || vocab < 1 || stride < vocab)
    throw std::invalid_argument("tile: expected rows >= 0, vocab >= 1, stride >= vocab");
  return {at<void>(logits),  rows,        vocab,   stride, static_cast<TileType>(type),
          at<int64_t>(target), temperature, softcap, num_threads < 1 ? 1 : num_threads};
}

// The six arrays in the order of StatsOut, greedy last.
StatsOut make_out(const std::vector<uintptr_t>& p) {
  if (p.size() != 6) throw std::invalid_argument("out: expected 6 addresses");
  return {at<float>(p[0]), at<float>(p[1]), at<float>(p[2]),
          at<float>(p[3]), at<float>(p[4]), at<uint8_t>(p[5])};
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "CPU kernels of nsr_fast.kernels: the rows of the fused policy loss, AdamW.";
  py::class_<Tile>(m, "Tile").def(
      py::init(&make_tile), py::kw_only(), py::arg("logits"), py::arg("rows"), py::arg("vocab"),
      py::arg("stride"), py::arg("type"), py::arg("target"), py::arg("temperature"),
      py::arg("softcap"), py::arg("num_threads"));
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels& kernels : supported()) names.push_back(kernels.rows.isa);
    return names;
  }, "Instruction sets this CPU can run, fastest first.");
  m.def("row_stats", [](const Tile& tile, const std::vector<uintptr_t>& out, const std::string& isa) {
    const StatsOut stats = make_out(out);
    const RowKernels& kernels = choose(isa).rows;
    py::gil_scoped_release release;
    kernels.stats(tile, stats);
  });
  m.def("row_grad", [](const Tile& tile, uintptr_t lse, uintptr_t entropy, uintptr_t c, uintptr_t e,
                       const std::string& isa) {
    const RowKernels& kernels = choose(isa).rows;
    py::gil_scoped_release release;
    kernels.grad(tile, {at<float>(lse), at<float>(entropy)}, {at<float>(c), at<float>(e)});
  });
  m.def("row_stats_grad", [](const Tile& tile, const std::vector<uintptr_t>& out, uintptr_t c,
                             uintptr_t e, const std::string& isa) {
    const StatsOut stats = make_out(out);
    const RowKernels& kernels = choose(isa).rows;
    py::gil_scoped_release release;
    kernels.stats_grad(tile, stats, {at<float>(c), at<float>(e)});
  });
  bind_adamw(m);
  m.def("adamw_step", [](const AdamwArgs& args, int num_threads, const std::string& isa) {
    const AdamwKernels& kernels = choose(isa).adamw;
    py::gil_scoped_release release;
    kernels.step(args, num_threads);
  });
  m.def("adamw_8bit_step", [](const AdamwArgs& step, uintptr_t code, uintptr_t absmax,
                              uintptr_t exp_avg_sq, int num_threads, const std::string& isa) {
    const Adamw8bitArgs args = with_8bit_state(step, code, absmax, exp_avg_sq);
    const Adamw8bitKernel& kernel = choose(isa).adamw_8bit;
    py::gil_scoped_release release;
    kernel.step(args, num_threads);
  });
  m.def("sum_of_squares", [](uintptr_t x, int64_t count, bool is_half, int num_threads,
                             const std::string& isa) {
    const AdamwKernels& kernels = choose(isa).adamw;
    py::gil_scoped_release release;
    return kernels.sum_of_squares(at<void>(x), count, is_half, num_threads);
  });
}
