"""States and checks shared by every AdamW backend: C++, SIMT shim, Triton (interpreted and real),
CUDA. A backend is a function with the signature of adamw_reference.step_."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nsr_fast.kernels import adamw_reference
from nsr_fast.kernels.adamw_reference import AdamwScalars, rounding_key

FLOAT, HALF = torch.float32, torch.bfloat16
# (weight, gradient, has a master): every variant of the kernels.
VARIANTS = [
    (FLOAT, FLOAT, False),
    (FLOAT, HALF, False),
    (HALF, FLOAT, True),
    (HALF, HALF, True),
    (HALF, FLOAT, False),
    (HALF, HALF, False),
]
GUARD = 8  # elements on either side of each array


@dataclass(frozen=True)
class State:
    """Five arrays, each a view into a buffer of NaN; master may be None."""

    weight: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    master: Tensor | None
    buffers: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.grad, self.exp_avg, self.exp_avg_sq, self.master

    def outputs(self) -> list[Tensor]:
        outputs = (self.weight, self.exp_avg, self.exp_avg_sq, self.master)
        return [x for x in outputs if x is not None]


def state(count: int, variant, *, offsets=(0, 0, 0, 0, 0), seed=0, device="cpu") -> State:
    """Values of the sizes met in training; offsets shift each array by elements (misalignment)."""
    weight_dtype, grad_dtype, has_master = variant
    master, grad, exp_avg, exp_avg_sq = values_of(count, seed)
    values = [master, grad, exp_avg, exp_avg_sq, master]
    dtypes = [weight_dtype, grad_dtype, FLOAT, FLOAT, FLOAT]
    placed = [guarded(*each, device) for each in zip(values, dtypes, offsets)]
    views, buffers = map(list, zip(*placed))
    if not has_master:
        views[-1] = None
    return State(*views, tuple(buffers))


def values_of(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, gradient and both moments [count] float32."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, generator=g) * 0.02
    grad = torch.randn(count, generator=g) * 10.0 ** -torch.randint(0, 9, (count,), generator=g)
    exp_avg = torch.randn(count, generator=g) * 1e-3
    exp_avg_sq = torch.rand(count, generator=g) * 1e-5
    exp_avg[::5] = exp_avg_sq[::5] = 0.0
    return weight, grad, exp_avg, exp_avg_sq


def guarded(value: Tensor, dtype: torch.dtype, offset: int, device: str) -> tuple[Tensor, Tensor]:
    """The values as a view into a buffer, and the buffer, whose other elements are guards."""
    guard = torch.nan if dtype.is_floating_point else 77
    start, count = GUARD + offset, value.numel()
    buffer = torch.full((start + count + GUARD,), guard, dtype=dtype, device=device)
    view = buffer[start : start + count]
    view.copy_(value)
    return view, buffer


def is_guard(buffer: Tensor) -> bool:
    """Every element is one."""
    return bool((buffer.isnan() if buffer.is_floating_point() else buffer == 77).all())


def scalars(step: int, *, seed: int | None = None, **changes) -> AdamwScalars:
    values = {
        "step_size": 1e-3 / (1 - 0.9**step),
        "decay": 1e-3 * 0.1,
        "blend1": 1 - 0.9,
        "beta2": 0.999,
        "blend2": 1 - 0.999,
        "inv_bias2_sqrt": 1 / math.sqrt(1 - 0.999**step),
        "eps": 1e-8,
        "grad_scale": 0.37,
        "key": None if seed is None else rounding_key(seed, step, 0),
    }
    return AdamwScalars(**values | changes)


def seed_of(variant) -> int | None:
    """Stochastic rounding is the variant of a bfloat16 weight without master."""
    return 11 if variant[0] == HALF and not variant[2] else None


def check_bits(step_, count: int, variant, *, offsets=(0, 0, 0, 0, 0), device="cpu") -> None:
    """Three steps give the reference's bits in every array and leave everything beside them."""
    got = state(count, variant, offsets=offsets, device=device)
    want = state(count, variant)
    for step in (1, 2, 1000):
        numbers = scalars(step, seed=seed_of(variant))
        step_(*got.tensors(), numbers)
        adamw_reference.step_(*want.tensors(), numbers)
        assert torch.equal(got.grad.cpu(), want.grad)
        for a, b in zip(got.outputs(), want.outputs()):
            assert torch.equal(a.cpu(), b), (step, (a.cpu() != b).nonzero()[:4].flatten().tolist())
    for view in (got.grad, *got.outputs()):
        view.fill_(torch.nan)
    used = got.buffers if variant[2] else got.buffers[:4]
    assert all(map(is_guard, used)), "a write outside the arrays"


def check_every_size_and_alignment(step_, *, sizes=(1, 3, 7, 64, 1025), device="cpu") -> None:
    for variant in VARIANTS:
        for count in sizes:
            check_bits(step_, count, variant, device=device)
        check_bits(step_, 133, variant, offsets=(1, 0, 0, 0, 0), device=device)
        check_bits(step_, 131, variant, offsets=(3, 1, 2, 3, 5), device=device)


def check_non_finite(step_, device="cpu") -> None:
    """NaN and infinite gradients stay in their element; a scale that is not finite does nothing."""
    for variant in VARIANTS:
        bad = state(70, variant, device=device)
        good = state(70, variant, device=device)
        payload = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(FLOAT)  # NaN as a GPU makes it
        bad.grad[3], bad.grad[33] = payload.item(), torch.inf
        if bad.grad.dtype == FLOAT:
            bad.grad[3:4].copy_(payload)
        bad.weight[40] = bad.weight[69] = torch.nan
        if bad.master is not None:
            bad.master[40:41].copy_(payload)
            bad.master[69] = torch.nan
        numbers = scalars(5, seed=seed_of(variant))
        for s in (bad, good):
            step_(*s.tensors(), numbers)
        # inf / inf in the ratio of the infinite gradient.
        assert bad.weight.isnan().nonzero().flatten().tolist() == [3, 33, 40, 69]
        keep = ~bad.weight.isnan()
        for a, b in zip(bad.outputs(), good.outputs()):
            assert torch.equal(a[keep], b[keep])
        for scale in (torch.nan, torch.inf, -torch.inf):
            before = [x.clone() for x in good.outputs()]
            step_(*good.tensors(), replace(numbers, grad_scale=scale))
            assert all(torch.equal(a, b) for a, b in zip(good.outputs(), before))


def check_extreme_rounding(step_, device="cpu") -> None:
    """A step of size 0 rounds the master to nearest even, and keeps a weight that has none."""
    values = [0.0, -0.0, 3.38e38, 3.397e38, -3.4e38, 1e-40, -1e-45, 1.00390625]
    values += [1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -1.0 - 2.0**-8 - 2.0**-20]
    want = torch.tensor(values).to(HALF)
    assert want.isinf().sum() == 2  # past the largest bfloat16
    for has_master in (True, False):
        s = state(len(values), (HALF, FLOAT, has_master), device=device)
        if has_master:
            s.master.copy_(torch.tensor(values))
        else:
            want = want.nan_to_num(posinf=3.38e38, neginf=-3.38e38)  # inf - 0 inf is NaN
            s.weight.copy_(want)
        s.grad.zero_()
        s.exp_avg.zero_()
        key = None if has_master else (1, 2)
        step_(*s.tensors(), scalars(1, step_size=0.0, decay=0.0, key=key))
        assert torch.equal(s.weight.cpu().view(torch.int16), want.view(torch.int16))
