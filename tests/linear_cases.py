"""Inputs and tolerances shared by the tests of the linear operations."""

import torch
from torch import Tensor

from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.policy_loss import linear_policy_loss

ALL = ("hidden", "weight", "bias")


def head_case(
    tokens: int, vocab: int, width: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """hidden, weight, bias, target, token_weight with logits of standard deviation about 2."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocab, width, generator=g) * 2.0 / width**0.5
    return {
        "hidden": torch.randn(tokens, width, generator=g).to(dtype),
        "weight": weight.to(dtype),
        "bias": torch.randn(vocab, generator=g).to(dtype),
        "target": torch.randint(0, vocab, (tokens,), generator=g),
        "token_weight": torch.randn(tokens, generator=g),
    }


def leaves(case: dict[str, Tensor], *names: str, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Fresh leaf copies that require gradients."""
    return [case[name].detach().clone().to(dtype).requires_grad_() for name in names]


def assert_as_good_as(
    got: Tensor, truth: Tensor, baseline: Tensor, *, name: str = "", eps: float | None = None
) -> None:
    """Every element of got within 2 x the baseline's worst error of the float64 truth, plus eps.

    eps is relative to the largest magnitude of truth; default four roundings of got's dtype, at
    least those of float32 arithmetic.
    """
    assert got.shape == truth.shape, (name, got.shape, truth.shape)
    if truth.numel() == 0:
        return
    scale = truth[truth.isfinite()].abs().max().item() if truth.isfinite().any() else 0.0
    eps = 4 * torch.finfo(baseline.dtype).eps if eps is None else eps
    truth, got = truth.double(), got.double()
    same = (got == truth) | (got.isnan() & truth.isnan())
    slack = (baseline.double() - truth)[truth.isfinite()].abs()
    bound = 2 * (slack.max().item() if slack.numel() else 0.0) + eps * scale + 1e-30
    error = torch.where(same, torch.zeros_like(truth), (got - truth).abs())
    worst = int(error.nan_to_num(nan=torch.inf).argmax())
    values = [x.flatten()[worst].item() for x in (got, truth, baseline.double())]
    message = f"{name}[{worst}]: got {values[0]}, float64 {values[1]}, baseline {values[2]}"
    assert bool((error <= bound).all()), f"{message}; bound {bound}"


def run(function, case: dict[str, Tensor], *, dtype=None, upstream=1.0, **options):
    """[loss, gradients of hidden, weight and bias] and what the function returned."""
    dtype = dtype or case["hidden"].dtype
    hidden, weight, bias = leaves(case, *ALL, dtype=dtype)
    result = function(hidden, weight, case["target"], case["token_weight"], bias=bias, **options)
    loss = getattr(result, "loss", result)
    (loss * upstream).backward()
    return [loss.detach(), hidden.grad, weight.grad, bias.grad], result


def check(
    case: dict[str, Tensor], *, eps: float | None = None, chunk=None, backend="cpu", **options
):
    """linear_policy_loss against float64 and the same-dtype autograd reference; its result."""
    truth, _ = run(reference.linear_policy_loss, case, dtype=torch.float64, **options)
    base, _ = run(reference.linear_policy_loss, case, **options)
    options = {**options, "chunk_rows": chunk, "backend": backend}
    got, result = run(linear_policy_loss, case, **options)
    # Summands may cancel in the loss, so its roundings are relative to the sum of their sizes.
    size = result.stats.loss.double().abs().sum() / truth[0].abs().clamp(min=1e-9)
    half = case["hidden"].dtype != torch.float32
    for name, g, t, b in zip(("loss", *ALL), got, truth, base):
        extra = eps or (2e-2 if half else 4e-6)
        bound = extra * max(size.item(), 1.0) if name == "loss" else extra
        assert_as_good_as(g, t, b, name=name, eps=bound)
    return result
