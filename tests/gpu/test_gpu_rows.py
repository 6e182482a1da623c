"""Row kernels on a GPU: CUDA (block and cluster path) and Triton, against float64 on that GPU."""

import pytest
import torch
from row_cases import (
    DTYPES,
    check_gradient,
    check_nan_stays_in_its_row,
    check_rows,
    check_stats,
    check_target_outside,
    check_zero_coefficients,
    coefficients,
    extreme_tile,
    rows_of,
    tile,
)

from nsr_fast.kernels import rows_cuda
from nsr_fast.kernels.rows import RowTile, available_backends, prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(params=["cuda block", "cuda cluster", "triton"])
def backend(request):
    name, _, path = request.param.partition(" ")
    reason = available_backends()[name]
    if reason is not None:
        # The suite exists to prove the kernels: a machine that lacks one must say so loudly.
        pytest.fail(f"backend {name}: {reason}")
    if path == "cluster" and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("clusters need sm_90")
    return rows_of(name, path or "auto")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 7, 257, 4099, 151_936, 262_147])
def test_rows_match_float64_at_every_edge(backend, dtype, vocab):
    for offset, gap in [(0, 0), (5, 3)]:
        logits, target, buffer = tile(5, vocab, dtype, offset=offset, gap=gap, device="cuda")
        check_rows(backend, logits, target, buffer=buffer)


@pytest.mark.parametrize("temperature, softcap", [(0.6, None), (1.7, 30.0), (1.0, 5.0)])
def test_temperature_and_softcap(backend, temperature, softcap):
    for dtype in DTYPES:
        logits, target, _ = tile(9, 5003, dtype, device="cuda")
        check_rows(backend, logits, target, temperature=temperature, softcap=softcap)


def test_extreme_rows(backend):
    check_rows(backend, *extreme_tile(torch.float32, device="cuda"))


def test_nan_zero_coefficients_and_bad_targets(backend):
    check_nan_stays_in_its_row(backend, device="cuda")
    check_zero_coefficients(backend, device="cuda")
    for bad in (-1, 400, 2**40):
        check_target_outside(backend, bad, device="cuda")


def test_more_rows_than_a_grid_axis_holds(backend):
    logits, target, _ = tile(65_537, 101, torch.bfloat16, device="cuda")
    check_rows(backend, logits, target)


def test_more_than_two_to_the_31_logits(backend):
    rows, vocab = 14_200, 151_936
    assert rows * vocab > 2**31
    logits = torch.empty(rows, vocab, dtype=torch.bfloat16, device="cuda")
    for start in range(0, rows, 1024):
        logits[start : start + 1024].normal_(std=3.0)
    target = torch.randint(vocab, (rows,), device="cuda")
    c, e = coefficients(rows, "cuda")
    seen = torch.tensor([0, 1, 7000, 14_133, 14_134, 14_135, rows - 1], device="cuda")
    original = logits[seen].clone()
    stats = backend(logits, target, c, e)
    picked = type(stats)(*(getattr(stats, name)[seen] for name in stats.__slots__))
    check_stats(picked, original, target[seen])
    check_gradient(logits[seen], original, target[seen], c[seen], e[seen])
    # Every row is a gradient: it sums to zero, up to bfloat16 rounding of its entries.
    for start in range(0, rows, 1024):
        assert logits[start : start + 1024].sum(dim=1, dtype=torch.float32).abs().max() < 0.05


def test_same_bits_twice(backend):
    results = []
    for _ in range(2):
        logits, target, _ = tile(300, 50_257, torch.bfloat16, device="cuda")
        stats = backend(logits, target, *coefficients(300, "cuda"))
        results.append((logits, stats.logprob, stats.entropy, stats.sum_p2_logp))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_kernels_run_on_the_current_stream(backend):
    logits, target, _ = tile(64, 32_000, torch.float32, device="cuda")
    source = logits.clone()
    logits.fill_(torch.nan)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would overtake the copy
        logits.copy_(source)
        stats = backend(logits, target)
    stream.synchronize()
    check_stats(stats, source, target)


def test_kernels_can_be_captured_in_a_graph(backend):
    logits, target, _ = tile(64, 32_000, torch.bfloat16, device="cuda")
    source = logits.clone()
    c, e = coefficients(64, "cuda")
    backend(logits, target, c, e)  # compiled and loaded before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stats = backend(logits, target, c, e)
    logits.copy_(source)
    graph.replay()
    check_stats(stats, source, target)
    check_gradient(logits, source, target, c, e)


def test_auto_takes_the_cluster_on_hopper_and_leaves_the_device_alone():
    if available_backends()["cuda"] is not None:
        pytest.fail(available_backends()["cuda"])
    logits, target, _ = tile(4, 151_936, torch.bfloat16, device="cuda")
    c, e = coefficients(4, "cuda")
    tile_ = RowTile(logits, target, backend="cuda")
    wanted = "cluster" if torch.cuda.get_device_capability()[0] >= 9 else "block"
    assert rows_cuda.launch(tile_, *prepare(tile_, c, e, None)) == wanted
    assert torch.cuda.current_device() == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_second_device(backend):
    logits, target, _ = tile(5, 4099, torch.bfloat16, device="cuda:1")
    check_rows(backend, logits, target)
    assert torch.cuda.current_device() == 0
