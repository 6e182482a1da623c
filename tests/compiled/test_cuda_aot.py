"""What nvcc made of csrc/cuda for each architecture: kernels present, no stack frames, registers.

The built nsr_fast._cuda is inspected when there is one; otherwise nvcc, where it is found, compiles
the sources here. Nothing is run.
"""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nsr_fast.kernels.rows_cuda import runs_on

triton = pytest.importorskip("triton")  # its wheel brings cuobjdump

ROOT = Path(__file__).parents[2]
SOURCES = ["row_block", "row_cluster", "adamw", "adamw_8bit"]
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ARCHITECTURES = [80, 90, 100, 120]
# Kernel name in the symbol -> variants: 3 dtypes x softcap or not (x gradient or not); AdamW: three
# ways to hold the weight x 2 dtypes of the gradient, two with an 8-bit state.
VARIANTS = {"stats_kernel": 12, "grad_kernel": 6, "cluster_kernel": 12}
VARIANTS |= {"adamw_kernel": 6, "adamw_8bit_kernel": 4}
# Two blocks of 512 threads, four of 256: no more than 64 registers a thread.
MAX_REGISTERS = 64


def resources(path: Path) -> dict[int, list[tuple[str, int, int]]]:
    """arch -> (mangled name, registers, stack bytes) of each kernel in a fat binary."""
    command = [CUOBJDUMP, "--dump-resource-usage", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[int, list[tuple[str, int, int]]] = {}
    arch = 0
    for line in text.splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            arch = int(match[1])
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found.setdefault(arch, []).append((name, int(match[1]), int(match[2])))
    return found


def check_kernels(kernels: list[tuple[str, int, int]], arch: int) -> None:
    for name, count in VARIANTS.items():
        variants = [k for k in kernels if name in k[0]]
        assert len(variants) == count, (arch, name, len(variants))
    for name, registers, stack in kernels:
        assert stack == 0, f"sm_{arch}: {name} has a stack frame of {stack} bytes"
        assert registers <= MAX_REGISTERS, f"sm_{arch}: {name} uses {registers} registers"


def compile_source(source: str, folder: Path) -> Path:
    output = folder / f"{source}.fatbin"
    command = ["nvcc", "-std=c++17", "-O3", "-fatbin", "--threads=2", "-Werror=all-warnings"]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command += [str(ROOT / "csrc" / "cuda" / f"{source}.cu"), "-o", str(output)]
    subprocess.run(command, check=True)
    return output


def test_built_module_holds_every_kernel_for_four_architectures():
    module = importlib.util.find_spec("nsr_fast._cuda")
    if module is None:
        pytest.skip("nsr_fast._cuda is not built")
    found = resources(Path(module.origin))
    from nsr_fast import _cuda

    assert sorted(found) == _cuda.architectures() == ARCHITECTURES
    for arch, kernels in found.items():
        check_kernels(kernels, arch)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_sources_compile_for_four_architectures(tmp_path):
    if importlib.util.find_spec("nsr_fast._cuda") is not None:
        pytest.skip("nsr_fast._cuda is built: the test above has looked at it")
    found = [resources(compile_source(source, tmp_path)) for source in SOURCES]
    for arch in ARCHITECTURES:
        check_kernels([kernel for part in found for kernel in part[arch]], arch)


@pytest.mark.parametrize(
    "capability, architectures, expected",
    [
        (89, [80, 90], True),
        (75, [80, 90], False),
        (80, [86], False),
        (90, [80], True),
        (103, [80, 90, 100, 120], True),
        (100, [80, 90, 120], False),
        (130, [80, 90, 100, 120], True),
    ],
)
def test_which_devices_can_run_the_module(capability, architectures, expected):
    assert runs_on(capability, architectures) is expected
