"""Triton kernels in the interpreter, against float64. test_triton_interpreted.py runs this file in
a process of its own, because TRITON_INTERPRET counts when a kernel is defined."""

import pytest
import torch
from row_cases import (
    DTYPES,
    check_nan_stays_in_its_row,
    check_rows,
    check_stats,
    check_target_outside,
    check_zero_coefficients,
    extreme_tile,
    rows_of,
    tile,
)

from nsr_fast.kernels.head import Head
from nsr_fast.kernels.logprobs_triton import linear_stats
from nsr_fast.kernels.rows import resolve_backend

# The interpreter cuts a float32 off when it stores bfloat16; GPUs round to nearest.
SLACK = {torch.float32: 1.0, torch.bfloat16: 2.0, torch.float16: 1.0}
backend = rows_of("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 7, 1024, 1025, 4099])
def test_rows_match_float64_at_every_edge(dtype, vocab):
    for offset, gap in [(0, 0), (5, 3)]:
        logits, target, buffer = tile(3, vocab, dtype, offset=offset, gap=gap)
        check_rows(backend, logits, target, buffer=buffer, slack=SLACK[dtype])


@pytest.mark.parametrize("temperature, softcap", [(0.6, None), (1.7, 30.0), (1.0, 5.0)])
def test_temperature_and_softcap(temperature, softcap):
    logits, target, _ = tile(4, 777, torch.float32)
    logits[0, :100] *= 1e-3  # the small-argument branch of tanh
    check_rows(backend, logits, target, temperature=temperature, softcap=softcap)


def test_vocabulary_of_qwen():
    logits, target, _ = tile(1, 151_936, torch.bfloat16)
    check_rows(backend, logits, target, slack=2.0)


def test_extreme_rows():
    check_rows(backend, *extreme_tile(torch.float32))


def test_nan_zero_coefficients_and_bad_targets():
    check_nan_stays_in_its_row(backend)
    check_zero_coefficients(backend)
    for bad in (-1, 400, 2**40):
        check_target_outside(backend, bad)


def test_backend_is_refused_where_it_cannot_work():
    assert resolve_backend("triton", torch.device("cpu"), torch.float32) == "triton"
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        backend(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0]))
    with pytest.raises(ValueError, match="unit stride"):
        backend(torch.zeros(4, 3).t(), torch.tensor([0, 0, 0]))
    assert backend(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).lse.shape == (0,)


# ---- the tile-fused head ----------------------------------------------------------------------


def stats_of(hidden, weight, target, **options):
    return linear_stats(Head(weight, backend="triton", **options), hidden, target)


def head(tokens: int, vocab: int, width: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype)
    weight = (3.0 * torch.randn(vocab, width, generator=generator) / width**0.5).to(dtype)
    target = torch.randint(vocab, (tokens,), generator=generator)
    target[0], target[-1] = 0, vocab - 1
    return hidden, weight, target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "tokens, vocab, width", [(1, 5, 3), (2, 128, 64), (130, 129, 65), (3, 2500, 40)]
)
def test_head_matches_float64_without_storing_logits(dtype, tokens, vocab, width):
    hidden, weight, target = head(tokens, vocab, width, dtype)
    logits = hidden.double() @ weight.double().t()
    check_stats(stats_of(hidden, weight, target), logits, target)


@pytest.mark.parametrize("softcap", [None, 15.0])
def test_head_with_bias_temperature_and_softcap(softcap):
    hidden, weight, target = head(66, 1100, 48, torch.float32)
    bias = torch.randn(1100, generator=torch.Generator().manual_seed(1))
    bias[1024:] = -torch.inf if softcap is None else 0.0  # a whole vocabulary split masked
    target[-1] = 3
    scaling = {"temperature": 0.7, "softcap": softcap}
    logits = hidden.double() @ weight.double().t() + bias.double()
    check_stats(stats_of(hidden, weight, target, bias=bias, **scaling), logits, target, **scaling)


def test_head_is_bitwise_repeatable_and_takes_no_tokens():
    hidden, weight, target = head(5, 3000, 32, torch.bfloat16)
    first, second = (stats_of(hidden, weight, target) for _ in range(2))
    assert torch.equal(first.logprob, second.logprob) and torch.equal(first.entropy, second.entropy)
    assert stats_of(hidden[:0], weight, target[:0]).logprob.shape == (0,)
    with pytest.raises(ValueError, match="float64"):
        stats_of(hidden.double(), weight.double(), target)
