"""Every Triton kernel compiled for four architectures, without a GPU.

Asserted: shared memory within a block's limit, no stack frame (so no spills) on sm_90, tensor core
instructions, 16-byte loads in the row and AdamW kernels, IEEE arithmetic in the latter. Nothing is
run.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from nsr_fast.kernels import adamw_8bit_triton, adamw_triton, rows_triton  # noqa: E402
from nsr_fast.kernels import logprobs_triton as head  # noqa: E402
from nsr_fast.kernels.sums_triton import IS_INTERPRETED  # noqa: E402

pytestmark = pytest.mark.skipif(
    IS_INTERPRETED, reason="TRITON_INTERPRET is set: nothing can be compiled"
)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ARCHITECTURES = [80, 90, 100, 120]
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
MATRIX_INSTRUCTION = {80: "mma.sync", 90: "wgmma", 100: "tcgen05", 120: "mma.sync"}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
INTEGERS = ("stride_row", "vocab", "num_tokens", "width", "split", "num_splits", "count")
WORDS = ("key0", "key1")  # integers a call does not specialise on
POINTERS = {"target_ptr": "*i64", "greedy_ptr": "*i1"}
OPERANDS = ("logits_ptr", "hidden_ptr", "weight_ptr", "bias_ptr")


@pytest.fixture(scope="module", autouse=True)
def empty_cache(tmp_path_factory):
    previous = os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    yield
    if previous is None:
        del os.environ["TRITON_CACHE_DIR"]
    else:
        os.environ["TRITON_CACHE_DIR"] = previous


def compile_for(arch: int, kernel, dtype: str, config: dict, *, pointers=POINTERS, **flags):
    """The compiled kernel, with the specialisation a call with aligned tensors gets."""
    constants = flags | {k: v for k, v in config.items() if k not in OPTIONS}
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(i,)] = "constexpr", constants[name]
            continue
        kind = "i32" if name in (*INTEGERS, *WORDS) else "fp32"
        if name.endswith("_ptr"):
            kind = pointers.get(name, f"*{dtype}" if name in OPERANDS else "*fp32")
        signature[name] = kind
        if kind != "fp32" and name not in WORDS:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=values, attrs=attributes)
    options = {"enable_fp_fusion": True} | {k: config[k] for k in OPTIONS if k in config}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def registers_and_stack(compiled) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return int(found[1]), int(found[2])


def check_resources(compiled, arch: int) -> None:
    registers, stack = registers_and_stack(compiled)
    assert 0 < registers <= 255
    assert compiled.metadata.shared <= SHARED_LIMIT[arch]
    if arch == 90:
        assert stack == 0, f"{stack} bytes of stack: the kernel spills registers"


ROWS = {
    "stats": {"HAS_STATS": True, "HAS_GRAD": False, "HAS_E": False, "HAS_SOFTCAP": False},
    "grad": {"HAS_STATS": False, "HAS_GRAD": True, "HAS_E": True, "HAS_SOFTCAP": False},
    "stats_grad": {"HAS_STATS": True, "HAS_GRAD": True, "HAS_E": True, "HAS_SOFTCAP": False},
    "softcap": {"HAS_STATS": True, "HAS_GRAD": True, "HAS_E": True, "HAS_SOFTCAP": True},
}


def check_row(arch: int, dtype: str, operation: str, config: dict) -> None:
    compiled = compile_for(arch, rows_triton.row_kernel, dtype, config, **ROWS[operation])
    check_resources(compiled, arch)
    assert re.search(r"ld\.global[^;]*v4", compiled.asm["ptx"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_row_kernel_compiles(arch):
    check_row(arch, "bf16", "stats_grad", rows_triton.LARGE)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("operation", ROWS)
def test_row_kernel_compiles_in_every_variant(arch, dtype, operation):
    for config in (rows_triton.LARGE, rows_triton.SMALL):
        check_row(arch, dtype, operation, config)


def check_split(arch: int, dtype: str, *, softcap: bool, bias: bool) -> None:
    config = head.FULL if dtype == "fp32" else head.HALF
    flags = {"HAS_SOFTCAP": softcap, "HAS_BIAS": bias, "UPCAST": False}
    compiled = compile_for(arch, head.split_kernel, dtype, config, **flags)
    check_resources(compiled, arch)
    assert MATRIX_INSTRUCTION[arch] in compiled.asm["ptx"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_head_kernels_compile(arch):
    check_split(arch, "bf16", softcap=False, bias=False)
    check_resources(compile_for(arch, head.combine_kernel, "fp32", head.COMBINE), arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_head_kernels_compile_in_every_variant(arch, dtype):
    for softcap in (False, True):
        for bias in (False, True):
            check_split(arch, dtype, softcap=softcap, bias=bias)


def check_adamw(arch: int, *, half: bool, half_grad: bool, master: bool, scale_ptr: bool) -> None:
    flags = {"HAS_MASTER": master, "IS_HALF": half, "HAS_SCALE_PTR": scale_ptr}
    if not master:
        flags["master_ptr"] = None
    if not scale_ptr:
        flags["scale_ptr"] = None
    pointers = {"weight_ptr": "*i16" if half else "*fp32"}
    pointers["grad_ptr"] = "*bf16" if half_grad else "*fp32"
    kernel, config = adamw_triton.adamw_kernel, adamw_triton.CONFIG
    check_ieee(compile_for(arch, kernel, "fp32", config, pointers=pointers, **flags), arch)


def check_adamw_8bit(arch: int, *, half: bool, half_grad: bool) -> None:
    flags = {"IS_HALF": half, "HAS_SCALE_PTR": True}
    pointers = {"weight_ptr": "*i16" if half else "*fp32", "code_ptr": "*i8"}
    pointers |= {"grad_ptr": "*bf16" if half_grad else "*fp32", "exp_avg_sq_ptr": "*i16"}
    kernel, config = adamw_8bit_triton.adamw_8bit_kernel, adamw_8bit_triton.CONFIG
    check_ieee(compile_for(arch, kernel, "fp32", config, pointers=pointers, **flags), arch)


def check_ieee(compiled, arch: int) -> None:
    check_resources(compiled, arch)
    ptx = compiled.asm["ptx"]
    assert re.search(r"ld\.global[^;]*v4", ptx)
    assert "div.rn.f32" in ptx and "sqrt.rn.f32" in ptx and ".f64" not in ptx
    assert "fma." not in ptx and ".ftz" not in ptx and "approx" not in ptx


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_adamw_kernel_compiles(arch):
    check_adamw(arch, half=True, half_grad=False, master=True, scale_ptr=True)
    check_adamw(arch, half=True, half_grad=True, master=False, scale_ptr=True)
    check_adamw_8bit(arch, half=True, half_grad=True)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("half, master", [(False, False), (True, True), (True, False)])
def test_adamw_kernel_compiles_in_every_variant(arch, half, master):
    for half_grad in (False, True):
        for scale_ptr in (False, True):
            check_adamw(arch, half=half, half_grad=half_grad, master=master, scale_ptr=scale_ptr)
        if not master:
            check_adamw_8bit(arch, half=half, half_grad=half_grad)
