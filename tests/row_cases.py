"""Tiles and checks shared by every row backend: SIMT shim, Triton (interpreted and real), CUDA."""

import torch
from torch import Tensor

from nsr_fast.kernels.rows import RowStats, RowTile, row_pass_

FIELDS = ("logprob", "entropy", "lse", "sum_p2", "sum_p2_logp")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Half a unit in the last place of the stored gradient, and where it turns absolute.
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}
FLOOR = {torch.float32: 3e-6, torch.bfloat16: 3e-6, torch.float16: 1e-5}


def rows_of(backend: str, force: str = "auto"):
    """row_pass_ of a backend as the checks call it: (logits, target, c, e, saved=, **scaling)."""

    def run(logits, target, c=None, e=None, *, saved=None, **scaling):
        tile = RowTile(logits, target, backend=backend, force=force, **scaling)
        return row_pass_(tile, c, e, saved=saved)

    return run


reference = rows_of("reference")


def tile(rows: int, vocab: int, dtype: torch.dtype, *, offset=0, gap=0, seed=0, device="cpu"):
    """Peaked logits [rows, vocab] inside a buffer of NaN, their targets, and the buffer."""
    generator = torch.Generator().manual_seed(seed)
    stride = vocab + gap
    buffer = torch.full((rows * stride + offset + 8,), torch.nan, dtype=dtype, device=device)
    logits = buffer[offset:].as_strided((rows, vocab), (stride, 1))
    logits.copy_(3.0 * torch.randn(rows, vocab, generator=generator))
    target = torch.randint(vocab, (rows,), generator=generator)
    target[0], target[-1] = 0, vocab - 1
    return logits, target.to(device), buffer


def coefficients(rows: int, device="cpu") -> tuple[Tensor, Tensor]:
    """c of both signs and e."""
    c = torch.linspace(-1.5, 1.0, rows) if rows > 1 else torch.tensor([-1.0])
    return c.to(device), torch.linspace(0.3, -0.2, rows).to(device)


def extreme_tile(dtype: torch.dtype, device="cpu") -> tuple[Tensor, Tensor]:
    """One row each: +-1e4, masked entries, one entry left, far below 0, p = 1, masked target,
    only masked entries."""
    logits, target, _ = tile(7, 1003, dtype, device=device)
    target.copy_(torch.tensor([0, 999, 500, 7, 1002, 3, 4]))
    odd = torch.arange(1003, device=device) % 2 == 1
    logits[0] = 1e4
    logits[0, odd] = -1e4
    logits[1, 100:] = -torch.inf
    logits[1, 999] = 3.0
    logits[2] = -torch.inf
    logits[2, 500] = -2.0
    logits[3] -= 1e4
    logits[4, 1002] = 1e4
    logits[5, 3] = -torch.inf
    logits[6] = -torch.inf
    return logits, target


def check_stats(got: RowStats, logits: Tensor, target: Tensor, *, slack=1.0, **scaling) -> None:
    """Against float64 on the same device; lse to the rounding of its own magnitude."""
    want = reference(logits.double(), target, **scaling)
    size = want.lse.nan_to_num(posinf=0.0, neginf=0.0).abs()
    for name in FIELDS:
        value, truth = getattr(got, name).double(), getattr(want, name)
        bound = 3e-6 + 3e-6 * truth.nan_to_num(posinf=0.0, neginf=0.0).abs()
        bound += 2e-7 * size if name == "lse" else 0.0
        check_close(value, truth, bound * slack, name)
    assert not (got.logprob > 0).any()
    assert torch.equal(got.greedy, want.greedy)


def check_gradient(
    got: Tensor,
    logits: Tensor,
    target: Tensor,
    c: Tensor,
    e: Tensor | None,
    *,
    slack=1.0,
    **scaling,
) -> None:
    """A stored gradient against float64; slack widens the bound (per row if a tensor [R, 1])."""
    want = logits.double()
    reference(want, target, c.double(), None if e is None else e.double(), **scaling)
    bound = (FLOOR[got.dtype] + ROUNDING[got.dtype] * want.nan_to_num().abs()) * slack
    check_close(got.double(), want, bound, "gradient")


def check_close(value: Tensor, truth: Tensor, bound: Tensor, name: str) -> None:
    same = (value == truth) | (value.isnan() & truth.isnan())
    error = torch.where(same, 0.0, (value - truth).abs()).nan_to_num(nan=torch.inf)
    if bool((error <= bound).all()):
        return
    worst = int((error / bound).argmax())
    pair = f"got {value.flatten()[worst].item()}, float64 {truth.flatten()[worst].item()}"
    raise AssertionError(f"{name}[{worst}]: {pair}")


def check_rows(backend, logits: Tensor, target: Tensor, *, buffer=None, slack=1.0, **scaling):
    """Statistics, both at once, and the gradient alone on one tile; the tile's bits are used up."""
    c, e = coefficients(len(target), logits.device)
    original = logits.clone()
    stats = backend(logits, target, **scaling)
    check_stats(stats, original, target, **scaling)
    assert torch.equal(logits.nan_to_num(), original.nan_to_num())
    check_stats(backend(logits, target, c, e, **scaling), original, target, **scaling)
    check_gradient(logits, original, target, c, e, slack=slack, **scaling)
    logits.copy_(original)
    backend(logits, target, c, e, saved=(stats.lse, stats.entropy), **scaling)
    # A float32 lse of magnitude m carries m 6e-8 into log p.
    rounding = 1.0 + 0.05 * stats.lse.nan_to_num(posinf=0.0, neginf=0.0).abs()[:, None]
    check_gradient(logits, original, target, c, e, slack=slack * rounding, **scaling)
    if buffer is not None:
        logits.fill_(torch.nan)
        assert buffer.isnan().all(), "a write outside the rows"


def check_nan_stays_in_its_row(backend, device="cpu") -> None:
    logits, target, _ = tile(3, 5000, torch.float32, device=device)
    logits[1, 77] = torch.nan
    original = logits.clone()
    c, e = coefficients(3, device)
    stats = backend(logits, target, c, e)
    assert stats.logprob.isnan().tolist() == [False, True, False]
    assert not stats.greedy[1] and logits[1].isnan().all()
    keep = torch.tensor([0, 2], device=device)
    check_gradient(logits[keep], original[keep], target[keep], c[keep], e[keep])


def check_zero_coefficients(backend, device="cpu") -> None:
    logits, target, buffer = tile(2, 1001, torch.bfloat16, offset=3, gap=1, device=device)
    logits[1] = torch.nan
    backend(logits, target, torch.zeros(2, device=device), None)
    assert (logits == 0).all()
    assert buffer[:3].isnan().all() and buffer[1004].isnan()


def check_target_outside(backend, bad: int, device="cpu") -> None:
    logits, target, _ = tile(2, 400, torch.float32, device=device)
    target[1] = bad
    stats = backend(logits, target, coefficients(2, device)[0], None)
    assert stats.logprob.isnan().tolist() == [False, True]
    assert logits.isnan().any(dim=1).tolist() == [False, True]
    assert stats.lse.isfinite().all()
