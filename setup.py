"""Builds nsr_fast._cpu (always) and nsr_fast._cuda (when nvcc is found).

NSR_FAST_CUDA=auto|1|0    build _cuda when it can be built (default) | fail when it cannot | never
NSR_FAST_CUDA_ARCHS       compute capabilities, default "80;90;100;120"; PTX of the last is added
NSR_FAST_DEBUG=1          line information and no optimisation
"""

import os
import platform
import shutil
import subprocess
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CUDA = os.environ.get("NSR_FAST_CUDA", "auto")
ARCHS = os.environ.get("NSR_FAST_CUDA_ARCHS", "80;90;100;120").split(";")
DEBUG = os.environ.get("NSR_FAST_DEBUG", "0") == "1"
CPU_FLAGS = ["-std=c++17", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-Wno-psabi"]
CPU_FLAGS += ["-fno-trapping-math"]  # never -ffast-math: NaN and -inf have a meaning here
CPU_FLAGS += ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
ISAS = {"baseline": []}
if IS_X86 := platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = ["-mavx2", "-mfma"]
    ISAS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
CUDA_SOURCES = sorted(glob("csrc/cuda/*.cu") + glob("csrc/cuda/*.cpp"))


def cuda_obstacle() -> str | None:
    """Why nsr_fast._cuda is not built, or None."""
    if CUDA not in ("auto", "1", "0"):
        raise SystemExit(f"NSR_FAST_CUDA: expected auto, 1 or 0, got {CUDA!r}")
    if CUDA == "0":
        return "NSR_FAST_CUDA=0"
    obstacle = None if shutil.which("nvcc") else "nvcc is not on PATH"
    obstacle = obstacle if CUDA_SOURCES else "no sources in csrc/cuda"
    if obstacle and CUDA == "1":
        raise SystemExit(f"NSR_FAST_CUDA=1, but nsr_fast._cuda cannot be built: {obstacle}")
    return obstacle


class BuildExt(build_ext):
    """Compiles the CPU row kernel once per instruction set; hands CUDA sources to one nvcc call."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name.endswith("_cuda"):
            return self.run_nvcc(ext)
        for isa, flags in ISAS.items():
            ext.extra_objects += self.compiler.compile(
                ["csrc/cpu/rows.cpp"],
                output_dir=os.path.join(self.build_temp, isa),
                macros=[("NSR_ISA", isa)],
                extra_postargs=[*CPU_FLAGS, *flags],
            )
        super().build_extension(ext)

    def run_nvcc(self, ext: Extension) -> None:
        output = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(output), exist_ok=True)
        flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
        flags += [f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}"]
        flags += ["-std=c++17", "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden,-g0"]
        flags += ["-G", "-lineinfo"] if DEBUG else ["-O3"]
        flags += [f"-I{path}" for path in [*ext.include_dirs, *self.include_dirs]]
        command = ["nvcc", "-shared", *flags, *ext.sources, "-o", output]
        if subprocess.run(command, check=False).returncode == 0:
            return
        if CUDA == "1":
            raise SystemExit("nsr_fast._cuda: nvcc failed")
        print("nsr_fast: _cuda left out: nvcc failed")


obstacle = cuda_obstacle()
cuda_text = f"left out: {obstacle}" if obstacle else f"for sm_{', sm_'.join(ARCHS)}"
print(f"nsr_fast: building _cpu for {', '.join(ISAS)}; _cuda {cuda_text}")
cpu = Pybind11Extension(
    "nsr_fast._cpu",
    ["csrc/cpu/bind.cpp"],
    depends=glob("csrc/cpu/*"),
    define_macros=[("NSR_HAS_X86_ISAS", "1")] if IS_X86 else [],
    extra_compile_args=CPU_FLAGS,
    extra_link_args=["-fopenmp", "-s"],
)
include = [*cpu.include_dirs, "csrc/common", "csrc/cuda"]
cuda = [] if obstacle else [Extension("nsr_fast._cuda", CUDA_SOURCES, include_dirs=include)]
AREAS = ["data", "evaluate", "kernels", "memory", "objective", "reward", "rollout", "train"]
packages = ["nsr_fast", *(f"nsr_fast.{a}" for a in AREAS if os.path.isdir(f"nsr_fast/{a}"))]
setup(ext_modules=[cpu, *cuda], cmdclass={"build_ext": BuildExt}, packages=packages)
