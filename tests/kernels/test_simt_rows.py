"""The CUDA row kernels, run from their own source on the CPU (csrc/simt), against float64.

What this proves: the algebra, the index arithmetic of every edge, the barriers (each one is removed
in turn and must be missed), independence of the thread order. What it cannot: memory model, speed.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nsr_fast.kernels import reference

ROOT = Path(__file__).parents[2]
FLAGS = ["-O2", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PATHS = {"auto": 0, "block": 1, "cluster": 2}
OUTPUTS = ("logprob", "entropy", "lse", "sum_p2", "sum_p2_logp", "greedy")
FORWARD, REVERSE = 0, 1

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")


class RowArgs(ctypes.Structure):
    """struct RowArgs of csrc/cuda/row.h."""

    _fields_ = (
        [("logits", ctypes.c_void_p), ("target", ctypes.c_void_p)]
        + [("rows", ctypes.c_int64), ("row_stride", ctypes.c_int64), ("vocab", ctypes.c_int)]
        + [("inv_temperature", ctypes.c_float), ("softcap", ctypes.c_float)]
        + [(name, ctypes.c_void_p) for name in ("lse", "entropy", "c", "e")]
        + [(f"out_{name}", ctypes.c_void_p) for name in OUTPUTS]
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("simt") / "row_simt.so"
    source = ROOT / "csrc" / "simt" / "row_simt.cpp"
    flags = [*FLAGS, "-Wno-unknown-pragmas", "-Werror"]
    subprocess.run(["g++", *flags, str(source), "-o", str(output)], check=True)
    library = ctypes.CDLL(str(output))
    library.nsr_simt_options.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    return library


def tile(
    rows: int, vocab: int, dtype: torch.dtype, *, offset: int = 0, gap: int = 0, seed: int = 0
):
    """Peaked logits [rows, vocab] inside a larger buffer of NaN, and that buffer."""
    generator = torch.Generator().manual_seed(seed)
    stride = vocab + gap
    buffer = torch.full((rows * stride + offset + 8,), torch.nan, dtype=dtype)
    logits = buffer[offset:].as_strided((rows, vocab), (stride, 1))
    logits.copy_(3.0 * torch.randn(rows, vocab, generator=generator))
    target = torch.randint(vocab, (rows,), generator=generator)
    return logits, target, buffer


def run(library, operation, logits, target, **options):
    """Call one operation on a copy of nothing: logits change in place. Returns RowStats, path."""
    tensors = {name: options.get(name) for name in ("lse", "entropy", "c", "e")}
    tensors = {k: None if v is None else v.float().contiguous() for k, v in tensors.items()}
    out = {name: torch.full((len(target),), torch.nan) for name in OUTPUTS[:-1]}
    out["greedy"] = torch.full((len(target),), 7, dtype=torch.uint8)
    library.nsr_simt_options(
        options.get("order", FORWARD),
        options.get("drop", 0),
        options.get("compute_major", 9),
        options.get("shared_limit", 227 * 1024),
    )
    args = RowArgs(
        logits=logits.data_ptr(),
        target=target.data_ptr(),
        rows=logits.shape[0],
        row_stride=logits.stride(0),
        vocab=logits.shape[1],
        inv_temperature=1.0 / options.get("temperature", 1.0),
        softcap=options.get("softcap") or 0.0,
        **{k: None if v is None else v.data_ptr() for k, v in tensors.items()},
        **{f"out_{k}": v.data_ptr() for k, v in out.items()},
    )
    message = ctypes.create_string_buffer(500)
    path = getattr(library, f"nsr_simt_{operation}")(
        ctypes.byref(args),
        DTYPES.index(logits.dtype),
        PATHS[options.get("path", "block")],
        message,
        ctypes.c_size_t(500),
    )
    if path < 0:
        raise RuntimeError(message.value.decode())
    out["greedy"] = out["greedy"].bool()
    return reference.RowStats(**out), path


def weights(rows: int):
    c = torch.linspace(-1.5, 1.0, rows) if rows > 1 else torch.tensor([-1.0])
    return c, torch.linspace(0.3, -0.2, rows)


def check_stats(got, logits, target, **options):
    want = reference.row_stats(logits.double(), target, **options)
    size = want.lse.abs().nan_to_num(posinf=0.0, neginf=0.0).max().item()
    for name in OUTPUTS[:-1]:
        torch.testing.assert_close(
            getattr(got, name).double(),
            getattr(want, name),
            atol=3e-6 + 2e-7 * size,
            rtol=3e-6,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert (got.logprob <= 0).all() or got.logprob.isnan().any()
    assert torch.equal(got.greedy, want.greedy)


def check_gradient(got, logits, target, c, e, **options):
    want = logits.double()
    reference.row_stats_grad_(
        want, target, c.double(), None if e is None else e.double(), **options
    )
    rounding = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}[logits.dtype]
    floor = 3e-6 if logits.dtype != torch.float16 else 1e-5  # float16 has no small normal numbers
    torch.testing.assert_close(got.double(), want, atol=floor, rtol=rounding, equal_nan=True)


def check_all(library, logits, target, *, path, buffer=None, **options):
    """All three operations on one tile, statistics and gradient, against float64."""
    scale = {k: options[k] for k in ("temperature", "softcap") if k in options}
    c, e = weights(len(target))
    original = logits.clone()
    got, _ = run(library, "row_stats", logits, target, path=path, **options)
    check_stats(got, original, target, **scale)
    assert torch.equal(logits.nan_to_num(), original.nan_to_num())
    fused, taken = run(library, "row_stats_grad", logits, target, c=c, e=e, path=path, **options)
    assert taken == PATHS[path]
    check_stats(fused, original, target, **scale)
    check_gradient(logits, original, target, c, e, **scale)
    fused_gradient = logits.clone()
    logits.copy_(original)
    both = {"lse": got.lse, "entropy": got.entropy, "c": c, "e": e}
    run(library, "row_grad", logits, target, **both, **options)
    check_gradient(logits, original, target, c, e, **scale)
    if buffer is not None:
        logits.fill_(torch.nan)
        assert buffer.isnan().all(), "a write outside the rows"
    return fused, fused_gradient


@pytest.mark.parametrize("path", ["block", "cluster"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 8, 9, 31, 257, 1000, 4099])
def test_rows_match_float64_at_every_edge(library, dtype, vocab, path):
    for offset, gap in [(0, 0), (1, 3), (5, 2)]:
        logits, target, buffer = tile(3, vocab, dtype, offset=offset, gap=gap, seed=vocab)
        target[0], target[-1] = 0, vocab - 1
        check_all(library, logits, target, path=path, buffer=buffer)


@pytest.mark.parametrize("path", ["block", "cluster"])
@pytest.mark.parametrize("temperature, softcap", [(0.6, None), (1.7, 30.0), (1.0, 5.0)])
def test_temperature_and_softcap(library, path, temperature, softcap):
    for dtype in DTYPES:
        logits, target, _ = tile(4, 777, dtype, offset=1)
        options = {"temperature": temperature, "softcap": softcap}
        check_all(library, logits, target, path=path, **options)


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_vocabulary_of_qwen(library, path):
    logits, target, _ = tile(1, 151_936, torch.bfloat16)
    check_all(library, logits, target, path=path)


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_results_do_not_depend_on_thread_order(library, path):
    results = []
    for order in [FORWARD, REVERSE, 2, 3, 4]:
        logits, target, _ = tile(2, 20_011, torch.float32, offset=1)
        c, e = weights(2)
        stats, _ = run(library, "row_stats_grad", logits, target, c=c, e=e, path=path, order=order)
        results.append((stats.logprob, stats.entropy, stats.sum_p2_logp, logits))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


def test_path_follows_the_device(library):
    logits, target, _ = tile(2, 4096, torch.float32)
    c, e = weights(2)
    on_sm80 = {"path": "auto", "compute_major": 8, "c": c, "e": e}
    assert run(library, "row_stats_grad", logits, target, **on_sm80)[1] == PATHS["block"]
    with pytest.raises(RuntimeError, match="no thread-block cluster"):
        run(library, "row_stats_grad", logits, target, **(on_sm80 | {"path": "cluster"}))
    on_sm90 = on_sm80 | {"compute_major": 9}
    assert run(library, "row_stats_grad", logits, target, **on_sm90)[1] == PATHS["cluster"]
    small = on_sm90 | {"shared_limit": 1024}
    assert run(library, "row_stats_grad", logits, target, **small)[1] == PATHS["block"]


# ---- extreme rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_large_logits_and_masked_entries(library, path):
    logits, target, _ = tile(6, 1003, torch.float32)
    logits[0] = torch.where(torch.arange(1003) % 2 == 0, 1e4, -1e4)
    logits[1, 100:] = -torch.inf
    logits[1, 999] = 3.0
    logits[2] = -torch.inf
    logits[2, 500] = -2.0  # one entry left: p = 1 there
    logits[3] -= 1e4
    logits[4, target[4]] = 1e4
    logits[5, target[5]] = -torch.inf  # masked target
    target[:4] = torch.tensor([0, 999, 500, 7])
    check_all(library, logits, target, path=path)


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_row_of_only_masked_entries(library, path):
    logits, target, _ = tile(3, 300, torch.float32)
    logits[1] = -torch.inf
    check_all(library, logits, target, path=path)


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_nan_stays_in_its_row(library, path):
    logits, target, _ = tile(3, 5000, torch.float32)
    logits[1, 77] = torch.nan
    original = logits.clone()
    c, e = weights(3)
    stats, _ = run(library, "row_stats_grad", logits, target, c=c, e=e, path=path)
    assert stats.logprob.isnan().tolist() == [False, True, False]
    assert logits[1].isnan().all()
    keep = torch.tensor([0, 2])
    check_gradient(logits[keep], original[keep], target[keep], c[keep], e[keep])


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_zero_weights_give_exact_zeros(library, path):
    logits, target, buffer = tile(2, 1001, torch.bfloat16, offset=3, gap=1)
    logits[1] = torch.nan
    zero = torch.zeros(2)
    run(library, "row_stats_grad", logits, target, c=zero, e=None, path=path)
    assert (logits == 0).all()
    assert buffer[:3].isnan().all() and buffer[1004].isnan()


@pytest.mark.parametrize("path", ["block", "cluster"])
@pytest.mark.parametrize("bad", [-1, 400, 2**40])
def test_target_outside_the_vocabulary_gives_nan(library, path, bad):
    logits, target, _ = tile(2, 400, torch.float32)
    target[1] = bad
    c, _ = weights(2)
    stats, _ = run(library, "row_stats_grad", logits, target, c=c, e=None, path=path)
    assert stats.logprob.isnan().tolist() == [False, True]
    assert logits.isnan().any(dim=1).tolist() == [False, True]
    assert stats.lse.isfinite().all()


# ---- the shim itself: what is removed must be missed --------------------------------------------


@pytest.mark.parametrize(
    "barrier, path", [(1, "block"), (1, "cluster"), (2, "cluster"), (3, "cluster")]
)
def test_a_removed_barrier_breaks_the_result(library, barrier, path):
    broken = []
    for order in [FORWARD, REVERSE, 2, 3]:
        logits, target, _ = tile(2, 40_003, torch.float32)
        original = logits.clone()
        c, e = weights(2)
        options = {"c": c, "e": e, "path": path, "order": order, "drop": barrier}
        stats, _ = run(library, "row_stats_grad", logits, target, **options)
        try:
            check_stats(stats, original, target)
            check_gradient(logits, original, target, c, e)
        except AssertionError:
            broken.append(order)
    assert broken
