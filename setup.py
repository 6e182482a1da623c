"""Builds nsr_fast._cpu (always) and nsr_fast._cuda (when nvcc is found).

NSR_FAST_CUDA=auto|1|0    build _cuda when it can be built (default) | fail when it cannot | never
NSR_FAST_CUDA_ARCHS       compute capabilities, default "80;90;100;120"; PTX of the last is added
NSR_FAST_DEBUG=1          line information and no optimisation
"""

import os
import shutil
import subprocess
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CUDA = os.environ.get("NSR_FAST_CUDA", "auto")
ARCHS = os.environ.get("NSR_FAST_CUDA_ARCHS", "80;90;100;120").split(";")
DEBUG = os.environ.get("NSR_FAST_DEBUG", "0") == "1"
CPU_FLAGS = ["-std=c++17", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-Wno-psabi"]
CPU_FLAGS += ["-fno-trapping-math"]  # never -ffast-math: NaN and -inf have a meaning here
CPU_FLAGS += ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
X86 = {"avx2": ["-mavx2", "-mfma"], "avx512": AVX512}
ISAS = {"baseline": []} | (X86 if os.uname().machine in ("x86_64", "amd64") else {})


def cuda_obstacle() -> str | None:
    """Why nsr_fast._cuda is not built, or None."""
    if CUDA not in ("auto", "1", "0"):
        raise SystemExit(f"NSR_FAST_CUDA: expected auto, 1 or 0, got {CUDA!r}")
    if CUDA == "0":
        return "NSR_FAST_CUDA=0"
    if CUDA == "1" and not shutil.which("nvcc"):
        raise SystemExit("NSR_FAST_CUDA=1, but nvcc is not on PATH")
    return None if shutil.which("nvcc") else "nvcc is not on PATH"


class BuildExt(build_ext):
    """Compiles the CPU kernels once per instruction set; hands CUDA sources to one nvcc call."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name.endswith("_cuda"):
            return self.run_nvcc(ext)
        for isa, flags in ISAS.items():
            options = {"macros": [("NSR_ISA", isa)], "output_dir": f"{self.build_temp}/{isa}"}
            for source in ("rows", "adamw", "adamw_8bit"):
                more = ["-ffp-contract=off"] if source != "rows" else []
                options["extra_postargs"] = [*CPU_FLAGS, *flags, *more]
                ext.extra_objects += self.compiler.compile([f"csrc/cpu/{source}.cpp"], **options)
        super().build_extension(ext)

    def run_nvcc(self, ext: Extension) -> None:
        output = self.get_ext_fullpath(ext.name)
        flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
        flags += [f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}"]
        flags += ["-std=c++17", "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden,-g0"]
        flags += ["-G", "-lineinfo"] if DEBUG else ["-O3", "-Xlinker=-s"]
        flags += [f"-I{path}" for path in [*ext.include_dirs, *self.include_dirs]]
        if subprocess.call(["nvcc", "-shared", *flags, *ext.sources, "-o", output]):
            raise CompileError("nvcc failed")  # a warning while the extension is optional


obstacle = cuda_obstacle()
cuda_text = f"left out: {obstacle}" if obstacle else f"for sm_{', sm_'.join(ARCHS)}"
print(f"nsr_fast: building _cpu for {', '.join(ISAS)}; _cuda {cuda_text}")
cpu = Pybind11Extension(
    "nsr_fast._cpu",
    ["csrc/cpu/bind.cpp"],
    depends=[*glob("csrc/cpu/*"), *glob("csrc/*.h")],
    define_macros=[("NSR_HAS_X86_ISAS", "1")] if "avx2" in ISAS else [],
    extra_compile_args=CPU_FLAGS,
    extra_link_args=["-fopenmp", "-s"],
)
files = sorted([*glob("csrc/cuda/*.cu"), *glob("csrc/cuda/*.cpp")])
cuda = Extension("nsr_fast._cuda", files, include_dirs=cpu.include_dirs, optional=CUDA == "auto")
modules = glob("nsr_fast/**/*.py", recursive=True)
packages = sorted({os.path.dirname(path).replace("/", ".") for path in modules})
cpu_and_cuda = [cpu] if obstacle else [cpu, cuda]
setup(ext_modules=cpu_and_cuda, cmdclass={"build_ext": BuildExt}, packages=packages)
