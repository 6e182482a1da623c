"""The shim itself (csrc/simt) must report divergence, deadlock and writes past shared memory."""

import shutil
import subprocess
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[2] / "csrc" / "cuda"
KERNELS = """
#define NSR_SIMT_HOST
#include "device.cuh"
#include <cstdio>
struct Args { int* out; };
void sum_of_lanes(Args args) {
  int value = int(threadIdx.x);
  for (int mask = 16; mask > 0; mask /= 2) value += nsr::shuffle_xor(value, mask);
  int* shared = static_cast<int*>(nsr::dynamic_shared());
  shared[threadIdx.x] = value;
  NSR_SYNC_BLOCK(1);
  args.out[threadIdx.x] = shared[(threadIdx.x + 32) % 64];
}
void half_leave(Args) { if (threadIdx.x < 32) NSR_SYNC_BLOCK(1); }
void two_barriers(Args) {
  if (threadIdx.x < 32) { NSR_SYNC_BLOCK(1); } else { NSR_SYNC_BLOCK(2); }
}
void one_lane_misses_a_shuffle(Args) { if (threadIdx.x != 5) nsr::shuffle_xor(1.f, 1); }
void writes_past_shared(Args) {
  static_cast<int*>(nsr::dynamic_shared())[threadIdx.x + 1] = 1;
}
void waits_without_arriving(Args) { NSR_CLUSTER_WAIT(3); }
int main() {
  int out[64] = {};
  void (*kernels[])(Args) = {sum_of_lanes, half_leave, two_barriers, one_lane_misses_a_shuffle,
                             writes_past_shared, waits_without_arriving};
  for (auto* kernel : kernels) {
    try {
      nsr::launch<Args>(kernel, {1, 64, 1, 64 * sizeof(int), nullptr}, {out});
      std::printf("ok %d %d\\n", out[0], out[63]);
    } catch (const std::exception& error) {
      std::printf("%s\\n", error.what());
    }
  }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")
def test_shim_reports_what_a_gpu_would_do_silently(tmp_path):
    source, program = tmp_path / "shim.cpp", tmp_path / "shim"
    source.write_text(KERNELS)
    command = ["g++", "-O1", "-std=c++17", f"-I{CUDA}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")
    # Each warp sums its own 32 lanes: 32 x 15.5, and 32 more per lane in the second warp.
    assert lines[0] == f"ok {sum(range(32, 64))} {sum(range(32))}"
    assert lines[1] == "simt: deadlock: 32 threads wait (barrier 1), 32 have left"
    assert lines[2].startswith("simt: barrier divergence: barrier 2 reached while others wait at 1")
    assert lines[3] == "simt: deadlock: 31 threads wait (barrier 0), 33 have left"
    assert lines[4].startswith("simt: write past shared memory (block 0, thread")
    assert lines[5].startswith("simt: cluster barrier: waited without arriving")
