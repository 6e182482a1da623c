"""Rows for the tests of token terms, and the check of c and e against autograd in float64."""

import torch
from torch import Tensor

from nsr_fast.kernels.tokens import TokenRows, TokenTerms

# Log ratios of the first rows: none, at and beyond the clamp of log ratios, far beyond it.
EXTREME = (0.0, 20.0, -20.0, 21.0, -21.0, 50.0, -50.0, 3.0, -3.0)


def rows(tokens: int = 400, *, dtype: torch.dtype = torch.float64, extreme: bool = False):
    """Random rows with every side input; log ratios of 0.5 noise, with `extreme` the first EXTREME
    for either sign of the weight."""
    g = torch.Generator().manual_seed(0)

    def uniform() -> Tensor:
        return torch.rand(tokens, generator=g, dtype=torch.float64)

    logprob = -uniform() * 4
    noise = [torch.randn(tokens, generator=g, dtype=torch.float64) * 0.5 for _ in range(3)]
    near = [(logprob + x).clamp(max=-1e-3) for x in noise]
    w = torch.randn(tokens, generator=g, dtype=torch.float64)
    if extreme:
        for sign in range(2):
            for i, gap in enumerate(EXTREME):
                row = sign * len(EXTREME) + i
                w[row] = 1.0 - 2.0 * sign
                logprob[row] = -1.0 + min(gap, 0.0)
                for x in near:
                    x[row] = logprob[row] - gap
    ratio = (torch.randn(tokens, generator=g, dtype=torch.float64) * 0.3).exp()
    factor = (uniform() > 0.2).double() * (0.5 + uniform())
    sides = [uniform(), ratio, factor, (uniform() > 0.5).double(), 0.1 + uniform()]
    x = [x.to(dtype) for x in (logprob, uniform() * 2, w, *near, *sides)]
    return TokenRows(*x)


def check_against_autograd(surrogate, formula, r: TokenRows | None = None) -> TokenTerms:
    """formula(logprob, rows) is the loss per row, .detach() where a factor is held constant.

    With .entropy of the rows a leaf too, a formula that reads it is checked for e.
    """
    r = rows() if r is None else r
    logprob, entropy = (x.clone().requires_grad_() for x in (r.logprob, r.entropy))
    values = {name: getattr(r, name) for name in TokenRows.__dataclass_fields__}
    loss = formula(logprob, TokenRows(**values | {"logprob": logprob, "entropy": entropy}))
    c, e = torch.autograd.grad(loss.sum(), [logprob, entropy], allow_unused=True)
    terms = surrogate(r)
    assert torch.allclose(terms.loss, loss.detach(), rtol=1e-12, atol=1e-14)
    assert torch.allclose(terms.c, torch.zeros_like(terms.c) if c is None else c, rtol=1e-12)
    if e is None or not bool((e != 0).any()):
        assert terms.e is None or bool((terms.e == 0).all())
    else:
        assert torch.allclose(terms.e, e, rtol=1e-12)
    assert all(bool(x.isfinite().all()) for x in (terms.loss, terms.c))
    return terms


def sides_of(r: TokenRows, *names: str) -> TokenRows:
    """r with these side inputs alone."""
    kept = {name: getattr(r, name) for name in ("logprob", "entropy", "token_weight", *names)}
    return TokenRows(**kept)
