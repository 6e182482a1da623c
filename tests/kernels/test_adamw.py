"""AdamW: the reference against torch and by hand, the C++ kernel against the reference's bits."""

from functools import partial

import pytest
import torch
from adamw_cases import (
    FLOAT,
    HALF,
    VARIANTS,
    check_bits,
    check_every_size_and_alignment,
    check_extreme_rounding,
    check_non_finite,
    scalars,
    seed_of,
    state,
)

from nsr_fast.kernels import adamw, adamw_reference, rows_cpu
from nsr_fast.kernels.adamw import adamw_step_, gradient_norm

ISAS = rows_cpu.instruction_sets()
BACKENDS = ["reference", "cpu"]


def moments(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, FLOAT)) for _ in range(2)]


@pytest.mark.parametrize("isa", ISAS)
def test_cpu_gives_the_bits_of_the_reference(isa):
    step_ = partial(adamw.step_cpu_, isa=isa)
    check_every_size_and_alignment(step_)
    check_non_finite(step_)
    check_extreme_rounding(step_)


def test_reference_passes_the_checks_of_the_kernels():
    check_non_finite(adamw_reference.step_)
    check_extreme_rounding(adamw_reference.step_)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cpu_result_does_not_depend_on_the_threads(variant):
    threads = torch.get_num_threads()
    results = []
    for number in (1, 3):
        torch.set_num_threads(number)
        s = state(70_003, variant)
        adamw.step_cpu_(*s.tensors(), scalars(3, seed=seed_of(variant)))
        results.append(s.outputs())
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    check_bits(adamw.step_cpu_, 70_003, variant)


def hundred_steps(learning_rate: float, weight_decay: float, size: float, backend: str):
    """Our weight and moments, torch's float32 parameter and state, torch's float64 parameter."""
    g = torch.Generator().manual_seed(0)
    ours = torch.randn(31, 33, generator=g) * size
    m, v = moments(ours)
    theirs = [ours.clone().requires_grad_(), ours.double().requires_grad_()]
    options = {"betas": (0.9, 0.98), "eps": 1e-7, "weight_decay": weight_decay}
    optimizers = [torch.optim.AdamW([x], lr=learning_rate, **options) for x in theirs]
    for step in range(1, 101):
        grad = torch.randn(31, 33, generator=g)
        for x, optimizer in zip(theirs, optimizers):
            x.grad = grad.to(x.dtype) * 0.5
            optimizer.step()
        numbers = {"step": step, "learning_rate": learning_rate, "beta2": 0.98, "eps": 1e-7}
        numbers |= {"weight_decay": weight_decay, "grad_scale": 0.5, "backend": backend}
        adamw_step_(ours, grad, m, v, **numbers)
    return ours, (m, v), theirs[0].detach(), optimizers[0].state[theirs[0]], theirs[1].detach()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("learning_rate", [1e-2, 1e-6])
def test_hundred_float32_steps_equal_torch(backend, learning_rate):
    ours, (m, v), theirs, found, _ = hundred_steps(learning_rate, 0.01, 0.05, backend)
    assert (ours - theirs).abs().max() <= 1e-6
    assert (ours - theirs).norm() < 1e-3 * learning_rate * 100 * 32  # beside the distance moved
    torch.testing.assert_close(m, found["exp_avg"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(v, found["exp_avg_sq"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_weight_decay_is_not_rounded_away(backend):
    """lr decay = 2e-8 of weights near 1 for 100 steps: torch's factor in float32 is exactly 1."""
    ours, _, theirs, _, exact = hundred_steps(2e-6, 0.01, 1.0, backend)
    pull = -2e-6 * exact
    lost, kept = (((x - exact) * pull).sum() / pull.square().sum() for x in (theirs, ours))
    assert abs(lost + 1) < 0.3 and abs(kept) < 0.3


def test_float64_reference_equals_torch():
    g = torch.Generator().manual_seed(1)
    ours = torch.randn(50, generator=g, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    m, v = moments(ours)
    torch_adamw = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.1)
    for step in range(1, 101):
        theirs.grad = torch.randn(50, generator=g, dtype=torch.float64)
        torch_adamw.step()
        numbers = {"step": step, "learning_rate": 1e-3, "weight_decay": 0.1}
        adamw_step_(ours, theirs.grad, m, v, **numbers)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-14)


def test_first_step_by_hand():
    # m = 0.1 g, v = 0.001 g^2, corrected to g and g^2: the step is lr sign(g), plus decay.
    weight = torch.tensor([2.0, -1.0])
    adamw_step_(
        weight,
        torch.tensor([0.25, -4.0]),
        *moments(weight),
        step=1,
        learning_rate=0.125,
        eps=0.0,
        weight_decay=0.5,
        backend="cpu",
    )
    torch.testing.assert_close(weight, torch.tensor([2 - 0.125 - 0.125, -1 + 0.125 + 0.0625]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("has_master", [True, False])
def test_small_updates_survive_where_plain_bfloat16_loses_them(backend, has_master):
    """Gradient 1 at learning rate 1e-6: each step takes 1e-6 from weights near 0.02, whose bfloat16
    neighbours are 1.2e-4 apart."""
    count, steps = 20_000, 100
    g = torch.Generator().manual_seed(0)
    start = (0.02 + 0.001 * torch.rand(count, generator=g)).to(HALF)
    plain = start.clone().requires_grad_()
    torch_adamw = torch.optim.AdamW([plain], lr=1e-6, weight_decay=0.0)
    ours, (m, v) = start.clone(), moments(start)
    options = {"master": start.float()} if has_master else {"seed": 3}
    for step in range(1, steps + 1):
        plain.grad = torch.ones(count, dtype=HALF)
        torch_adamw.step()
        numbers = {"step": step, "learning_rate": 1e-6, "backend": backend}
        adamw_step_(ours, torch.ones(count, dtype=HALF), m, v, **numbers, **options)
    assert torch.equal(plain, start)
    moved = (ours.double() - start.double()).mean().item()
    gap = 2.0**-13  # of bfloat16 in [1/64, 1/32)
    if has_master:
        exact = start.double() - steps * 1e-6
        assert (options["master"].double() - exact).abs().max() < 1e-7
        assert (ours.double() - exact).abs().max() <= gap / 2 + 1e-7
        assert moved != 0.0
    else:
        # A weight moves down 0.82 gaps on average, in steps of one: five standard errors.
        error = gap * (steps * 1e-6 / gap / count) ** 0.5
        assert abs(moved + steps * 1e-6) < 5 * error < 5e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_stochastic_rounding_is_unbiased_and_takes_a_neighbour(backend):
    """A gradient of 0 and decay 2^-12 ask 1.0 for 1 - 2^-12, 1/16 of the way to 1 - 2^-8."""
    count = 100_000
    numbers = {"learning_rate": 2.0**-12, "weight_decay": 1.0, "backend": backend}
    results = []
    for step, seed in ((1, 0), (1, 1), (2, 0), (1, 0)):
        weight = torch.ones(count, dtype=HALF)
        adamw_step_(
            weight, torch.zeros_like(weight), *moments(weight), step=step, seed=seed, **numbers
        )
        results.append(weight)
        assert set(weight.unique().tolist()) == {1.0, 1 - 2.0**-8}
        share = (weight != 1).double().mean().item()
        assert abs(share - 1 / 16) < 5 * (1 / 16 * 15 / 16 / count) ** 0.5
    moved = [weight != 1 for weight in results]
    assert torch.equal(results[0], results[3])
    for other in moved[1:3]:  # another seed or step: as independent as 1/256 of common hits says
        common = (moved[0] & other).double().mean().item()
        assert abs(common - 1 / 256) < 5 * (1 / 256 / count) ** 0.5
    neighbours = (moved[0][1:] & moved[0][:-1]).double().mean().item()
    assert abs(neighbours - 1 / 256) < 5 * (1 / 256 / count) ** 0.5


def test_rounding_bits_are_uniform_and_keys_differ():
    key = adamw_reference.rounding_key(0, 1, 0)
    assert key != adamw_reference.rounding_key(1, 0, 0) != adamw_reference.rounding_key(0, 0, 1)
    bits = adamw_reference.rounding_bits(1 << 16, key, torch.device("cpu"))
    for position in range(32):
        ones = int((bits >> position & 1).sum())
        assert abs(ones - (1 << 15)) < 5 * 128  # 128: the standard deviation
    counts = torch.bincount(bits & 0xFF, minlength=256).double()
    assert ((counts - 256).square() / 256).sum() < 255 + 5 * (2 * 255) ** 0.5
    # Worked once by hand for index 0: the hash of key0 with key1 added in the middle.
    x = key[0]
    x = ((x ^ x >> 16) * 0x7FEB352D + key[1]) % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    assert int(bits[0]) == x ^ x >> 16


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_larger_tensor_are_stepped_alone(backend):
    whole = torch.ones(5, 7, dtype=HALF)
    address = whole.data_ptr()
    m, v = moments(whole[1:3])
    numbers = {"step": 1, "learning_rate": 0.5, "backend": backend}
    adamw_step_(whole[1:3], torch.ones(2, 7), m, v, master=torch.ones(2, 7), **numbers)
    assert whole[:, 0].tolist() == [1.0, 0.5, 0.5, 1.0, 1.0] and whole.data_ptr() == address


def test_long_tensors_go_in_pieces_with_their_own_keys(monkeypatch):
    whole, pieces = (torch.ones(100, dtype=HALF) for _ in range(2))
    numbers = {"step": 1, "learning_rate": 2.0**-10, "weight_decay": 1.0, "backend": "cpu"}
    adamw_step_(whole, torch.zeros(100), *moments(whole), seed=0, **numbers)
    monkeypatch.setattr(adamw, "PIECE", 50)
    adamw_step_(pieces, torch.zeros(100), *moments(whole), seed=0, **numbers)
    assert torch.equal(whole[:50], pieces[:50])
    assert (pieces[50:] != 1).any() and not torch.equal(pieces[:50], pieces[50:])
    exact, master = torch.full((103,), 2.0), torch.full((103,), 2.0)
    adamw_step_(exact, torch.ones(103), *moments(exact), **numbers)
    monkeypatch.setattr(adamw, "PIECE", 1 << 30)
    adamw_step_(master, torch.ones(103), *moments(exact), **numbers)
    assert torch.equal(exact, master) and (exact < 2).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_scale_may_be_a_tensor(backend):
    results = []
    for scale in (0.3125, torch.tensor(0.3125)):
        weight = torch.linspace(-1, 1, 9)
        numbers = {"step": 2, "learning_rate": 0.1, "grad_scale": scale, "backend": backend}
        adamw_step_(weight, weight.clone(), *moments(weight), **numbers)
        results.append(weight)
    assert torch.equal(*results)


def test_the_write_is_seen_by_autograd():
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    adamw_step_(weight, torch.ones(3), *moments(weight), step=1, learning_rate=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [FLOAT, HALF, torch.float64])
def test_gradient_norm_is_exact_where_float32_sums_are_not(dtype):
    g = torch.Generator().manual_seed(0)
    grads = [torch.randn(n, generator=g).to(dtype) for n in (3_000_001, 1, 37, 16_384)]
    exact = torch.cat([x.double() for x in grads]).norm().item()
    assert float(gradient_norm(grads)) == pytest.approx(exact, rel=1e-6)
    assert gradient_norm(grads).dtype == FLOAT
    for bad in (torch.nan, torch.inf):
        grads[2][30] = bad
        assert not torch.isfinite(gradient_norm(grads))
    assert float(gradient_norm([])) == 0.0


@pytest.mark.parametrize("isa", ISAS)
def test_sum_of_squares_of_every_instruction_set(isa):
    for dtype in (FLOAT, HALF):
        x = torch.arange(1, 131).to(dtype)  # squares and sums below 2^24: exact
        for count in (1, 5, 64, 130):
            want = count * (count + 1) * (2 * count + 1) // 6
            assert adamw.sum_of_squares(x[:count], isa=isa) == want


def test_bad_arguments_are_refused():
    weight, grad = torch.ones(4, 6), torch.ones(4, 6)
    m, v = moments(weight)
    ok = {"step": 1, "learning_rate": 0.1}
    half = weight.to(HALF)
    cases = [
        ((weight.half(), grad, m, v), {}, r"weight: expected contiguous \[4, 6\] float32 . bfloat"),
        ((weight, grad[:3], m, v), {}, r"grad: expected contiguous \[4, 6\] .* got \[3, 6\]"),
        ((weight, torch.ones(6, 4).t(), m, v), {}, r"grad: .* with strides \(1, 4\)"),
        ((weight, grad, m.to(HALF), v), {}, "exp_avg: expected .* float32 on cpu, got"),
        (
            (weight, grad, m, v),
            {"master": m},
            "master: expected None for a weight of torch.float32",
        ),
        ((half, grad, m, v), {}, "seed: expected an integer for a bfloat16 weight without master"),
        ((half, grad, m, v), {"seed": 1, "master": m}, "seed: .*None for any other, got 1"),
        ((weight, grad, m, v), {"step": 0}, "step: expected an integer >= 1, got 0"),
        ((weight, grad, m, v), {"beta2": 1.0}, r"beta2: expected a number in \[0, 1\), got 1.0"),
        ((weight, grad, m, v), {"eps": float("nan")}, "eps: expected a finite number >= 0"),
        ((weight, grad, m, v), {"grad_scale": torch.ones(1)}, "grad_scale: expected a float or"),
        ((weight, grad, m, v), {"backend": "cuda_"}, "backend: expected one of auto, cuda"),
        ((weight.double(), grad, m.double(), v.double()), {"backend": "cpu"}, "got float64"),
    ]
    for tensors, changes, message in cases:
        with pytest.raises(ValueError, match=message):
            adamw_step_(*tensors, **ok | changes)
    assert torch.equal(weight, torch.ones(4, 6))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_absent_backends_raise_with_their_reason(backend):
    weight = torch.ones(2)
    with pytest.raises(RuntimeError, match=f"backend '{backend}' is not available: "):
        adamw_step_(weight, weight, *moments(weight), step=1, learning_rate=0.1, backend=backend)
