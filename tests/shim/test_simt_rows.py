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
from row_cases import (
    DTYPES,
    FIELDS,
    check_gradient,
    check_nan_stays_in_its_row,
    check_rows,
    check_stats,
    check_target_outside,
    check_zero_coefficients,
    coefficients,
    extreme_tile,
    tile,
)

from nsr_fast.kernels.rows import RowTile, prepare

ROOT = Path(__file__).parents[2]
FLAGS = ["-O2", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra"]
FLAGS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
PATHS = {"auto": 0, "block": 1, "cluster": 2}
FORWARD, REVERSE = 0, 1
GIVEN = ("lse", "entropy", "c", "e")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")


class RowArgs(ctypes.Structure):
    """struct RowArgs of csrc/cuda/row.h."""

    _fields_ = (
        [("logits", ctypes.c_void_p), ("target", ctypes.c_void_p)]
        + [("rows", ctypes.c_int64), ("row_stride", ctypes.c_int64), ("vocab", ctypes.c_int)]
        + [("inv_temperature", ctypes.c_float), ("softcap", ctypes.c_float)]
        + [(name, ctypes.c_void_p) for name in GIVEN]
        + [(f"out_{name}", ctypes.c_void_p) for name in (*FIELDS, "greedy")]
    )


class Simulator:
    """A row backend over the shim; `taken` is the path of the last call."""

    def __init__(self, library, path="block", order=FORWARD, drop=0, major=9, shared=227 << 10):
        self.library = library
        self.path = PATHS[path]
        self.options = (order, drop, major, ctypes.c_int64(shared))
        self.taken = None

    def __call__(self, logits, target, c=None, e=None, *, saved=None, **scaling):
        tile = RowTile(logits, target, backend="reference", **scaling)
        stats, grad = prepare(tile, c, e, saved)
        for name in FIELDS if stats else ():
            getattr(stats, name).fill_(torch.nan)
        self.launch(tile, stats, grad)
        return stats

    def launch(self, tile, stats, grad):
        names = (["row"] + ["stats"] * (stats is not None)) + ["grad"] * (grad is not None)
        logits, operation = tile.logits, "_".join(names)
        args = RowArgs(
            logits=logits.data_ptr(),
            target=tile.target.data_ptr(),
            rows=logits.shape[0],
            row_stride=logits.stride(0),
            vocab=logits.shape[1],
            inv_temperature=1.0 / tile.temperature,
            softcap=tile.softcap or 0.0,
            **{f"out_{k}": getattr(stats, k).data_ptr() for k in (*FIELDS, "greedy") if stats},
            **{k: v.data_ptr() for k in GIVEN if (v := getattr(grad, k, None)) is not None},
        )
        message = ctypes.create_string_buffer(500)
        code = DTYPES.index(logits.dtype)
        function = getattr(self.library, f"nsr_simt_{operation}")
        self.library.nsr_simt_options(*self.options)
        self.taken = function(
            ctypes.byref(args), code, self.path, message, ctypes.c_size_t(len(message))
        )
        if self.taken < 0:
            raise RuntimeError(message.value.decode())


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("simt") / "row_simt.so"
    source = ROOT / "csrc" / "simt" / "row_simt.cpp"
    flags = [*FLAGS, "-Wno-unknown-pragmas", "-Werror"]
    subprocess.run(["g++", *flags, str(source), "-o", str(output)], check=True)
    return ctypes.CDLL(str(output))


@pytest.fixture(params=["block", "cluster"])
def backend(request, library) -> Simulator:
    return Simulator(library, request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 8, 9, 31, 257, 1000, 4099])
def test_rows_match_float64_at_every_edge(backend, dtype, vocab):
    for offset, gap in [(0, 0), (1, 3), (5, 2)]:
        logits, target, buffer = tile(3, vocab, dtype, offset=offset, gap=gap, seed=vocab)
        check_rows(backend, logits, target, buffer=buffer)


@pytest.mark.parametrize("dtype, vocab", [(torch.float32, 20_011), (torch.bfloat16, 40_003)])
def test_edges_of_a_row_that_several_blocks_share_count_once(backend, dtype, vocab):
    logits, target, buffer = tile(2, vocab, dtype, offset=1)  # elements left over at both ends
    check_rows(backend, logits, target, buffer=buffer)


@pytest.mark.parametrize("temperature, softcap", [(0.6, None), (1.7, 30.0), (1.0, 5.0)])
def test_temperature_and_softcap(backend, temperature, softcap):
    for dtype in DTYPES:
        logits, target, _ = tile(4, 777, dtype, offset=1)
        check_rows(backend, logits, target, temperature=temperature, softcap=softcap)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vocabulary_of_qwen(backend, dtype):
    logits, target, _ = tile(1, 151_936, dtype)
    check_rows(backend, logits, target)
    assert backend.taken == PATHS["block"]  # row_grad_ has one path


def test_extreme_rows(backend):
    check_rows(backend, *extreme_tile(torch.float32))


def test_nan_stays_in_its_row(backend):
    check_nan_stays_in_its_row(backend)


def test_zero_coefficients_give_exact_zeros(backend):
    check_zero_coefficients(backend)


@pytest.mark.parametrize("bad", [-1, 400, 2**40])
def test_target_outside_the_vocabulary_gives_nan(backend, bad):
    check_target_outside(backend, bad)


@pytest.mark.parametrize("path", ["block", "cluster"])
def test_results_do_not_depend_on_the_thread_order(library, path):
    results = []
    for order in [FORWARD, REVERSE, 2, 3, 4]:
        logits, target, _ = tile(2, 20_011, torch.float32, offset=1)
        original, (c, e) = logits.clone(), coefficients(2)
        simulator = Simulator(library, path, order=order)
        stats = simulator(logits, target, c, e)
        assert simulator.taken == PATHS[path]
        check_stats(stats, original, target)
        check_gradient(logits, original, target, c, e)
        results.append((stats.logprob, stats.entropy, stats.sum_p2_logp, logits))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


@pytest.mark.parametrize(
    "machine, taken",
    [({"major": 9}, "cluster"), ({"major": 8}, "block"), ({"shared": 1024}, "block")],
)
def test_path_follows_the_device(library, machine, taken):
    logits, target, _ = tile(2, 4096, torch.float32)
    auto = Simulator(library, "auto", **machine)
    auto(logits, target, *coefficients(2))
    assert auto.taken == PATHS[taken]
    if taken == "block":
        with pytest.raises(
            RuntimeError, match="no thread-block cluster here can hold a row of 4096"
        ):
            Simulator(library, "cluster", **machine)(logits, target, *coefficients(2))


@pytest.mark.parametrize(
    "barrier, path", [(1, "block"), (1, "cluster"), (2, "cluster"), (3, "cluster")]
)
def test_a_removed_barrier_is_missed(library, barrier, path):
    def is_right(order, drop):
        logits, target, _ = tile(2, 40_003, torch.float32)
        original, (c, e) = logits.clone(), coefficients(2)
        simulator = Simulator(library, path, order=order, drop=drop)
        stats = simulator(logits, target, c, e)
        try:
            check_stats(stats, original, target)
            check_gradient(logits, original, target, c, e)
        except AssertionError:
            return False
        return True

    orders = [FORWARD, REVERSE, 2]
    assert all(is_right(order, drop=0) for order in orders)
    assert not all(is_right(order, drop=barrier) for order in orders)
