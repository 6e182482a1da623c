// nsr_fast._cuda: the CUDA kernels behind addresses and integers, free of torch headers. The Python
// side (kernels/rows_cuda.py, kernels/adamw.py) checks shapes and dtypes; here only what C++ itself
// relies on.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "../adamw_bind.h"
#include "adamw.h"
#include "row.h"

namespace py = pybind11;
using namespace nsr;

namespace {

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Makes a device current for one call, as torch's own guard does.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_));
    check(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// A tile of logits and where it lives: RowArgs without the vectors.
struct Tile {
  RowArgs args{};
  Dtype dtype;
  int device;
  void* stream;
};

Tile make_tile(uintptr_t logits, int64_t rows, int64_t vocab, int64_t stride, int dtype,
               uintptr_t target, double temperature, double softcap, int device,
               uintptr_t stream) {
  // One block per row or eight, and the grid's limit is 2^31 - 1 blocks.
  if (rows < 1 || rows >= int64_t(1) << 28 || vocab < 1 || vocab >= int64_t(1) << 30) {
    throw std::invalid_argument("tile: expected 1 <= rows < 2^28 and 1 <= vocab < 2^30");
  }
  if (stride < vocab || dtype < 0 || dtype > 2 || !(temperature > 0) || softcap < 0) {
    throw std::invalid_argument(
        "tile: expected stride >= vocab, dtype 0..2, temperature > 0, softcap >= 0");
  }
  Tile tile;
  tile.args.logits = at<void>(logits);
  tile.args.target = at<const int64_t>(target);
  tile.args.rows = rows;
  tile.args.row_stride = stride;
  tile.args.vocab = int(vocab);
  tile.args.inv_temperature = float(1.0 / temperature);
  tile.args.softcap = float(softcap);
  tile.dtype = Dtype(dtype);
  tile.device = device;
  tile.stream = at<void>(stream);
  return tile;
}

// logprob, entropy, lse, sum_p2, sum_p2_logp, greedy.
using Outputs = std::array<uintptr_t, 6>;

void set_outputs(RowArgs& args, const Outputs& out) {
  args.out_logprob = at<float>(out[0]);
  args.out_entropy = at<float>(out[1]);
  args.out_lse = at<float>(out[2]);
  args.out_sum_p2 = at<float>(out[3]);
  args.out_sum_p2_logp = at<float>(out[4]);
  args.out_greedy = at<uint8_t>(out[5]);
}

Path path_of(const std::string& name) {
  if (name == "auto") return Path::kAuto;
  if (name == "block") return Path::kBlock;
  if (name == "cluster") return Path::kCluster;
  throw std::invalid_argument("path: expected auto, block or cluster, got " + name);
}

std::string name_of(Path path) { return path == Path::kCluster ? "cluster" : "block"; }

py::dict device_info(int device) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, device));
  py::dict info;
  info["name"] = std::string(p.name);
  info["capability"] = 10 * p.major + p.minor;
  info["multiprocessors"] = p.multiProcessorCount;
  info["shared_bytes_per_block"] = p.sharedMemPerBlockOptin;
  info["memory_bytes"] = p.totalGlobalMem;
  return info;
}

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count));
  return count;
}

// Compute capabilities this module holds machine code for, as 80, 90, ...
std::vector<int> architectures() {
  std::vector<int> list;
  for (int arch : {__CUDA_ARCH_LIST__}) list.push_back(arch / 10);
  return list;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of nsr_fast.kernels: the rows of the fused policy loss, AdamW.";
  m.def("architectures", &architectures);
  m.def("device_count", &device_count, "Number of CUDA devices; RuntimeError without a driver.");
  m.def("device_info", &device_info, py::arg("device"));
  py::class_<Tile>(m, "Tile").def(
      py::init(&make_tile), py::kw_only(), py::arg("logits"), py::arg("rows"), py::arg("vocab"),
      py::arg("stride"), py::arg("dtype"), py::arg("target"), py::arg("temperature"),
      py::arg("softcap"), py::arg("device"), py::arg("stream"));
  m.def("row_stats", [](Tile tile, const Outputs& out, const std::string& path) {
    const Path wanted = path_of(path);
    set_outputs(tile.args, out);
    const DeviceGuard guard(tile.device);
    return name_of(row_stats(tile.args, tile.dtype, wanted, tile.stream));
  });
  m.def("row_grad", [](Tile tile, uintptr_t lse, uintptr_t entropy, uintptr_t c, uintptr_t e) {
    tile.args.lse = at<float>(lse);
    tile.args.entropy = at<float>(entropy);
    tile.args.c = at<float>(c);
    tile.args.e = at<float>(e);
    const DeviceGuard guard(tile.device);
    row_grad(tile.args, tile.dtype, tile.stream);
  });
  m.def("row_stats_grad", [](Tile tile, const Outputs& out, uintptr_t c, uintptr_t e,
                             const std::string& path) {
    const Path wanted = path_of(path);
    set_outputs(tile.args, out);
    tile.args.c = at<float>(c);
    tile.args.e = at<float>(e);
    const DeviceGuard guard(tile.device);
    return name_of(row_stats_grad(tile.args, tile.dtype, wanted, tile.stream));
  });
  bind_adamw(m);
  m.def("adamw_step", [](const AdamwArgs& args, int device, uintptr_t stream) {
    const DeviceGuard guard(device);
    adamw_step(args, at<void>(stream));
  });
  m.def("adamw_8bit_step", [](const AdamwArgs& step, uintptr_t code, uintptr_t absmax,
                              uintptr_t exp_avg_sq, int device, uintptr_t stream) {
    const Adamw8bitArgs args = with_8bit_state(step, code, absmax, exp_avg_sq);
    const DeviceGuard guard(device);
    adamw_8bit_step(args, at<void>(stream));
  });
}
