"""AdamW in 3 bytes: its format by hand, the reference against the plain step, C++ against both."""

from functools import partial

import pytest
import torch
from adamw_8bit_cases import (
    SEED,
    VARIANTS,
    check_all,
    check_bits,
    check_every_code,
    check_non_finite,
    check_scale_on_the_device,
    numbers_of,
    state,
)
from adamw_cases import FLOAT, HALF

from nsr_fast.kernels import adamw, adamw_8bit, rows_cpu
from nsr_fast.kernels import adamw_8bit_reference as reference
from nsr_fast.kernels.adamw import adamw_step_
from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_, num_blocks

BACKENDS = ["reference", "cpu"]
CODES = torch.arange(-128, 128).to(torch.int8)


def fresh(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The state before step 1: codes, absmax, second moment."""
    zeros = partial(torch.zeros, dtype=torch.int8)
    return zeros(weight.shape), torch.zeros(num_blocks(weight.numel())), weight.to(HALF) * 0


@pytest.mark.parametrize("isa", rows_cpu.instruction_sets())
def test_cpu_gives_the_bits_of_the_reference(isa):
    check_all(partial(adamw_8bit.step_cpu_, isa=isa))


def test_reference_passes_the_checks_of_the_kernels():
    check_every_code(reference.step_)
    check_non_finite(reference.step_)


def test_gradient_scale_may_be_a_tensor():
    for step_ in (reference.step_, adamw_8bit.step_cpu_):
        check_scale_on_the_device(step_)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cpu_result_does_not_depend_on_the_threads(variant):
    threads = torch.get_num_threads()
    results = []
    for number in (1, 3):
        torch.set_num_threads(number)
        s = state(70_003, variant)
        adamw_8bit.step_cpu_(*s.tensors(), numbers_of(3))
        results.append(s.outputs())
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    check_bits(adamw_8bit.step_cpu_, 70_003, variant)


def test_the_values_are_those_of_the_signed_dynamic_map():
    """As bitsandbytes.functional.create_dynamic_map(signed=True) makes them, in its own words."""
    want = [0.0, 1.0]
    for exponent in range(7):
        boundaries = torch.linspace(0.1, 1, 2**exponent + 1)
        means = (boundaries[:-1] + boundaries[1:]) / 2 * 10 ** (exponent - 6)
        want += [*means.tolist(), *(-means).tolist()]
    got = reference.value(CODES)
    torch.testing.assert_close(got.sort().values, torch.tensor(sorted(want)), rtol=3e-7, atol=0)
    assert got[CODES == 0] == 0 and got[CODES == -128] == 1
    assert (got[CODES > 0].diff() > 0).all()


def test_the_code_is_that_of_the_nearest_value():
    g = torch.Generator().manual_seed(0)
    y = torch.rand(200_000, generator=g) * 2 - 1
    y[::2] *= 10.0 ** (-8 * torch.rand(100_000, generator=g))
    values = reference.value(CODES).sort().values
    nearest = values[torch.bucketize(y, (values[1:] + values[:-1]) / 2)]
    got = reference.value(reference.nearest_code(y))
    assert ((got - y).abs() <= (nearest - y).abs() + 1e-6 * y.abs()).all()
    assert torch.equal(reference.nearest_code(reference.value(CODES)), CODES)
    large = y.abs() > 0.1
    assert ((got - y).abs()[large] <= 0.00704).all()  # half of 0.9 / 64, and rounding


def test_quantising_again_changes_nothing_but_a_largest_value_below_zero():
    """The map has no -1: such a value is kept as -0.993 absmax."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100, 256, generator=g)
    x[:, 0] = 5.0
    code, absmax = reference.quantized(x)
    again = reference.quantized(reference.dequantized(code, absmax))
    assert torch.equal(code, again[0]) and torch.equal(absmax, again[1])
    mirrored, absmax = reference.quantized(-x)
    assert (mirrored[:, 0] == -127).all() and torch.equal(mirrored[:, 1:], -code[:, 1:])
    kept = reference.dequantized(mirrored, absmax)[:, 0]
    torch.testing.assert_close(kept, torch.full((100,), -5 * (1 - 0.45 / 64)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_the_first_step_moves_the_weight_as_the_plain_one(backend, dtype):
    """Moments are rounded after they have moved it, and the weight's rounding bits are the same."""
    g = torch.Generator().manual_seed(0)
    ours = torch.randn(1000, generator=g).to(dtype)
    theirs, grad = ours.clone(), torch.randn(1000, generator=g)
    numbers = {"step": 1, "learning_rate": 1e-2, "weight_decay": 0.1, "backend": backend}
    numbers |= {"grad_scale": 0.5}
    adamw_8bit_step_(ours, grad, *fresh(ours), seed=SEED, **numbers)
    seed = SEED if dtype == HALF else None
    adamw_step_(theirs, grad, torch.zeros(1000), torch.zeros(1000), seed=seed, **numbers)
    assert torch.equal(ours, theirs)


def test_hundred_steps_stay_near_those_of_the_plain_step():
    g = torch.Generator().manual_seed(0)
    ours, theirs = torch.zeros(3000), torch.zeros(3000)
    ours_state, theirs_state = fresh(ours), (torch.zeros(3000), torch.zeros(3000))
    drift, largest = torch.randn(3000, generator=g), torch.zeros(num_blocks(3000))
    for step in range(1, 101):
        grad = drift + torch.randn(3000, generator=g)
        numbers = {"step": step, "learning_rate": 1e-3}
        adamw_8bit_step_(ours, grad, *ours_state, seed=0, **numbers)
        adamw_step_(theirs, grad, *theirs_state, **numbers)
        largest = torch.maximum(largest, ours_state[1])
    assert (ours - theirs).norm() < 0.02 * theirs.norm()
    code, absmax, v = ours_state
    # A step rounds by 0.00703 absmax at most, and forgets a tenth of what the others did.
    error = (reference.dequantized(code, absmax) - theirs_state[0]).abs()
    assert (error < 0.0703 * largest.repeat_interleave(256)[:3000]).all()
    error = (v.float() - theirs_state[1]).abs() / theirs_state[1]
    assert error.mean() < 0.02 and error.max() < 0.1  # a random walk in steps of 2^-8 at most


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_moment_follows_a_falling_gradient(backend):
    """0.1 % a step is a quarter of bfloat16's spacing at 1: to nearest it would never move."""
    count, steps = 20_000, 200
    weight, grad = torch.zeros(count), torch.zeros(count)
    code, absmax, v = fresh(weight)
    v.fill_(1.0)
    for step in range(1, steps + 1):
        numbers = {"step": step, "learning_rate": 1e-3, "backend": backend}
        adamw_8bit_step_(weight, grad, code, absmax, v, seed=0, **numbers)
    exact = 0.999**steps
    # 51 roundings of one spacing (2^-8 below 1), each taken with its probability.
    error = 2.0**-8 * (51 / count) ** 0.5
    assert abs(v.double().mean().item() - exact) < 5 * error < 1e-3
    nearest = torch.tensor(1.0, dtype=HALF)
    assert (nearest.float() * 0.999).to(HALF) == nearest


def test_the_two_roundings_are_unbiased_and_independent():
    """Decay 2^-12 asks 1/16 of a step down of the weight, beta2 3/4 of one of the second moment."""
    count = 100_000
    weight, grad = torch.ones(count, dtype=HALF), torch.zeros(count)
    code, absmax, v = fresh(weight)
    v.fill_(1.0)
    numbers = {"learning_rate": 2.0**-12, "weight_decay": 1.0, "beta2": 1 - 0.75 * 2.0**-8}
    adamw_8bit_step_(weight, grad, code, absmax, v, step=1, seed=0, **numbers)
    weights, seconds = weight != 1, v != 1
    assert set(weight.unique().tolist()) == set(v.unique().tolist()) == {1.0, 1 - 2.0**-8}
    for share, wanted in ((weights, 1 / 16), (seconds, 3 / 4), (weights & seconds, 3 / 64)):
        error = (wanted * (1 - wanted) / count) ** 0.5
        assert abs(share.double().mean().item() - wanted) < 5 * error
    v.fill_(1.0)
    adamw_8bit_step_(weight, grad, code, absmax, v, step=2, seed=0, **numbers)
    common = ((v != 1) & seconds).double().mean().item()
    assert abs(common - 9 / 16) < 5 * (9 / 16 * 7 / 16 / count) ** 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_rows_are_stepped_with_the_blocks_of_their_tensor(backend):
    """7 rows of 77: two whole blocks and 27 elements of a third."""
    g = torch.Generator().manual_seed(0)
    grad = torch.randn(10, 77, generator=g)
    whole, alone = torch.ones(10, 77), torch.ones(7, 77)
    code, absmax, v = fresh(whole)
    absmax.fill_(5.0)
    numbers = {"step": 1, "learning_rate": 0.5, "seed": 0, "backend": backend}
    blocks = num_blocks(7 * 77)
    adamw_8bit_step_(whole[:7], grad[:7], code[:7], absmax[:blocks], v[:7], **numbers)
    state_alone = fresh(alone)
    adamw_8bit_step_(alone, grad[:7], *state_alone, **numbers)
    assert torch.equal(whole[:7], alone) and torch.equal(code[:7], state_alone[0])
    assert torch.equal(absmax[:3], state_alone[1]) and (absmax[3:] == 5).all()
    assert (whole[7:] == 1).all() and (code[7:] == 0).all() and (v[7:] == 0).all()


def test_long_tensors_go_in_pieces_with_their_own_keys(monkeypatch):
    g = torch.Generator().manual_seed(0)
    start, grad = torch.randn(1300, generator=g), torch.randn(1300, generator=g)
    results = []
    for piece in (adamw.PIECE, 512):
        monkeypatch.setattr(adamw, "PIECE", piece)
        weight = start.clone()
        code, absmax, v = fresh(weight)
        adamw_8bit_step_(weight, grad, code, absmax, v, step=1, learning_rate=0.1, seed=0)
        results.append((weight, code, absmax, v))
    for whole, pieces in zip(results[0][:3], results[1][:3]):
        assert torch.equal(whole, pieces)
    (*_, whole), (*_, pieces) = results
    assert torch.equal(whole[:512], pieces[:512])
    assert not torch.equal(whole[512:1024], pieces[512:1024])
    assert not torch.equal(whole[1024:], pieces[1024:])


def test_the_state_is_three_bytes_a_parameter():
    weight = torch.zeros(999, 1001)
    num_bytes = sum(x.numel() * x.element_size() for x in fresh(weight))
    assert num_bytes / weight.numel() == pytest.approx(3.0156, abs=1e-4)


def test_the_write_is_seen_by_autograd():
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    state = fresh(weight.detach())
    adamw_8bit_step_(weight, torch.ones(3), *state, step=1, learning_rate=0.1, seed=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_bad_arguments_are_refused():
    weight, grad = torch.ones(4, 100), torch.ones(4, 100)
    code, absmax, v = fresh(weight)
    ok = {"step": 1, "learning_rate": 0.1, "seed": 0}
    cases = [
        ((weight.double(), grad, code, absmax, v), {}, "weight: expected .* float32 . bfloat16"),
        ((weight, grad[:3], code, absmax, v), {}, r"grad: expected contiguous \[4, 100\] float32"),
        ((weight, grad, code.int(), absmax, v), {}, r"code: expected .* int8 on cpu, got"),
        ((weight, grad, code, absmax[:1], v), {}, r"absmax: expected contiguous \[2\] float32"),
        ((weight, grad, code, absmax.to(HALF), v), {}, r"absmax: expected .* bfloat16 on cpu"),
        ((weight, grad, code, absmax, v.float()), {}, "exp_avg_sq: expected .* bfloat16 on cpu"),
        ((weight, grad, code, absmax, v), {"seed": None}, "seed: expected an integer, got None"),
        ((weight, grad, code, absmax, v), {"step": 0}, "step: expected an integer >= 1, got 0"),
        ((weight, grad, code, absmax, v), {"backend": "cuda_"}, "backend: expected one of auto"),
    ]
    for tensors, changes, message in cases:
        with pytest.raises(ValueError, match=message):
            adamw_8bit_step_(*tensors, **ok | changes)
    assert torch.equal(weight, torch.ones(4, 100))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_absent_backends_raise_with_their_reason(backend):
    weight = torch.ones(2)
    numbers = {"step": 1, "learning_rate": 0.1, "seed": 0, "backend": backend}
    with pytest.raises(RuntimeError, match=f"backend '{backend}' is not available: "):
        adamw_8bit_step_(weight, weight, *fresh(weight), **numbers)
