"""States and checks shared by every backend of the 8-bit AdamW, as adamw_cases.py has them. A
backend is a function with the signature of adamw_8bit_reference.step_."""

from dataclasses import dataclass, replace

import torch
from adamw_cases import FLOAT, HALF, guarded, is_guard, scalars, values_of
from torch import Tensor

from nsr_fast.kernels import adamw_8bit_reference as reference
from nsr_fast.kernels.adamw_reference import AdamwScalars

# (weight, gradient): every variant of the kernels.
VARIANTS = [(FLOAT, FLOAT), (FLOAT, HALF), (HALF, FLOAT), (HALF, HALF)]
SEED = 11


@dataclass(frozen=True)
class State:
    """Five arrays in the order of step_, each a view into a buffer of guards."""

    weight: Tensor
    grad: Tensor
    code: Tensor
    absmax: Tensor
    exp_avg_sq: Tensor
    buffers: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.grad, self.code, self.absmax, self.exp_avg_sq

    def outputs(self) -> list[Tensor]:
        return [self.weight, self.code, self.absmax, self.exp_avg_sq]


def state(count: int, variant, *, offsets=(0, 0, 0, 0, 0), seed=0, device="cpu") -> State:
    """Values of the sizes met in training, first moments over all decades and empty blocks."""
    weight, grad, exp_avg, exp_avg_sq = values_of(count, seed)
    g = torch.Generator().manual_seed(seed + 1)
    exp_avg *= 10.0 ** -torch.randint(0, 8, (count,), generator=g)
    exp_avg[256:512] = 0.0
    grad[256:400] = 0.0
    code, absmax = reference.quantized(exp_avg)
    values = [weight, grad, code, absmax, exp_avg_sq]
    dtypes = [*variant, torch.int8, FLOAT, HALF]
    placed = [guarded(*each, device) for each in zip(values, dtypes, offsets)]
    views, buffers = zip(*placed)
    return State(*views, buffers)


def numbers_of(step: int, **changes) -> AdamwScalars:
    return scalars(step, seed=SEED, **changes)


def check_bits(step_, count: int, variant, *, offsets=(0, 0, 0, 0, 0), device="cpu") -> None:
    """Three steps give the reference's bits in every array and leave everything beside them."""
    got = state(count, variant, offsets=offsets, device=device)
    want = state(count, variant)
    for step in (1, 2, 1000):
        step_(*got.tensors(), numbers_of(step))
        reference.step_(*want.tensors(), numbers_of(step))
        assert torch.equal(got.grad.cpu(), want.grad)
        for name, a, b in zip(("weight", "code", "absmax", "v"), got.outputs(), want.outputs()):
            wrong = (a.cpu() != b).nonzero()[:4].flatten().tolist()
            assert torch.equal(a.cpu(), b), (step, name, wrong)
    for view, buffer in zip(got.tensors(), got.buffers):
        view.copy_(buffer[0])
        assert is_guard(buffer), "a write outside the arrays"


def check_every_size_and_alignment(step_, *, sizes=(1, 7, 255, 257, 1030), device="cpu") -> None:
    for variant in VARIANTS:
        for count in sizes:
            check_bits(step_, count, variant, device=device)
        check_bits(step_, 389, variant, offsets=(1, 0, 0, 0, 0), device=device)
        check_bits(step_, 600, variant, offsets=(3, 1, 2, 3, 5), device=device)
        check_bits(step_, 519, variant, offsets=(4, 4, 1, 1, 2), device=device)


def check_every_code(step_, device="cpu") -> None:
    """Gradients of 0 and blend 0: codes and absmax are what they were, from every code there is.

    The weight shows each value: with v = 0 and eps = 1 it moves by it.
    """
    codes = torch.arange(-128, 128).to(torch.int8)
    s = state(256, (FLOAT, FLOAT), device=device)
    s.code.copy_(codes)
    for tensor, value in ((s.absmax, 4.0), (s.grad, 0.0), (s.weight, 0.0), (s.exp_avg_sq, 0.0)):
        tensor.fill_(value)
    numbers = numbers_of(1, blend1=0.0, eps=1.0, step_size=1.0, decay=0.0)
    step_(*s.tensors(), numbers)
    assert torch.equal(s.code.cpu(), codes) and s.absmax.item() == 4.0
    assert torch.equal(-s.weight.cpu(), 4.0 * reference.value(codes))


def check_edges_between_codes(step_, device="cpu") -> None:
    """First moments at the middles between neighbouring values, and on either side of them."""
    values = reference.value(torch.arange(-128, 128).to(torch.int8)).sort().values
    middle = (values[1:] + values[:-1]) / 2
    middle = torch.cat([middle, middle * (1 + 2**-23), middle * (1 - 2**-23), middle * 1.1])
    moments = torch.nn.functional.pad(middle.view(-1, 255), (1, 0), value=1.0).flatten()
    for scale in (1.0, 3e-41, 1e-38, 3e38):
        got = state(moments.numel(), (FLOAT, FLOAT), device=device)
        want = state(moments.numel(), (FLOAT, FLOAT))
        for s, run in ((got, step_), (want, reference.step_)):
            s.absmax.zero_()
            s.grad.copy_(moments * scale)
            run(*s.tensors(), numbers_of(1, blend1=1.0, grad_scale=1.0))
        assert torch.equal(got.code.cpu(), want.code)
        assert torch.equal(got.absmax.cpu(), want.absmax)
        assert bool((got.code == 0).all()) == (scale < 1e-40)


def check_non_finite(step_, device="cpu") -> None:
    """What is not finite stays in its element; a scale that is not finite does nothing."""
    payload = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(FLOAT)  # NaN as a GPU makes it
    for variant in VARIANTS:
        bad, good = (state(700, variant, device=device) for _ in range(2))
        for s in (bad, good):  # no element that becomes NaN holds its block's absmax
            s.code[[3, 33, 40, 600, 699]] = 0
            s.grad[[3, 33, 40, 600, 699]] = 0.0
        bad.grad[3], bad.grad[33] = payload.item(), torch.inf
        if bad.grad.dtype == FLOAT:
            bad.grad[3:4].copy_(payload)
        bad.weight[40] = bad.weight[699] = bad.exp_avg_sq[600] = torch.nan
        for s in (bad, good):
            step_(*s.tensors(), numbers_of(5))
        # inf / inf in the ratio of the infinite gradient.
        assert bad.weight.isnan().nonzero().flatten().tolist() == [3, 33, 40, 600, 699]
        assert bad.exp_avg_sq.isnan().nonzero().flatten().tolist() == [3, 600]
        assert bad.code[[3, 33]].tolist() == [0, 0] and bad.exp_avg_sq[33] == torch.inf
        assert torch.equal(bad.code, good.code) and torch.equal(bad.absmax, good.absmax)
        keep = ~bad.weight.isnan()
        assert torch.equal(bad.weight[keep], good.weight[keep])
        assert torch.equal(bad.exp_avg_sq[keep], good.exp_avg_sq[keep])
        for scale in (torch.nan, torch.inf, -torch.inf):
            before = [x.clone() for x in good.outputs()]
            step_(*good.tensors(), replace(numbers_of(5), grad_scale=scale))
            assert all(torch.equal(a, b) for a, b in zip(good.outputs(), before))


def check_scale_on_the_device(step_, device="cpu") -> None:
    for variant in VARIANTS:
        results = []
        for scale in (0.3125, torch.tensor(0.3125), torch.tensor(torch.nan)):
            s = state(300, variant, device=device)
            scale = scale.to(device) if isinstance(scale, Tensor) else scale
            step_(*s.tensors(), numbers_of(2, grad_scale=scale))
            results.append(s.outputs())
        untouched = state(300, variant, device=device).outputs()
        assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
        assert all(torch.equal(a, b) for a, b in zip(results[2], untouched))
        assert not any(torch.equal(a, b) for a, b in zip(results[0], untouched))


def check_all(step_, device="cpu") -> None:
    check_every_size_and_alignment(step_, device=device)
    check_every_code(step_, device)
    check_edges_between_codes(step_, device)
    check_non_finite(step_, device)
