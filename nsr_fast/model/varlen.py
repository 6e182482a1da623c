"""Attention kernels that take packed sequences as they are, for CUDA in half precision.

flash-attn is preferred to torch's varlen_attn. A candidate is used only after it has computed a
small case forward and backward like scaled_dot_product_attention on the same device; what speaks
against the others is kept as text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# (query [T, Hq, d], key [T, Hkv, d], value, bounds [N + 1] int32, longest, scale) -> [T, Hq, d]
Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int, float | None], Tensor]

_TOLERANCE = 2e-2  # of the largest value; half precision errs by some 4e-3
_CASE_LENGTHS = (37, 5, 130)


@dataclass(frozen=True, slots=True)
class VarlenChoice:
    """The kernel in use (None: torch's scaled_dot_product_attention) and why not the others."""

    name: str
    attend: Varlen | None
    reasons: Mapping[str, str]

    @property
    def note(self) -> str:
        """One line for the user."""
        rejected = "; ".join(f"{name}: {why}" for name, why in self.reasons.items())
        return f"packed attention: {self.name}" + (f" ({rejected})" if rejected else "")


def choose_varlen(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int
) -> VarlenChoice:
    """The first candidate that works for these heads on `device`."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return VarlenChoice("torch scaled_dot_product_attention", None, {})
    candidates = {"flash-attn": _flash_attn, "torch varlen": _torch}
    return first_that_agrees(candidates, device, dtype, (num_heads, num_kv_heads, head_dim))


def first_that_agrees(
    candidates: Mapping[str, Callable[[], Varlen]],
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
) -> VarlenChoice:
    """Load and try `candidates` in their order; heads = (Hq, Hkv, d)."""
    reasons = {}
    for name, load in candidates.items():
        try:
            attend = load()
            obstacle = disagreement(attend, device, dtype, heads)
        except Exception as error:  # kernels fail in many ways; each is a reason not to use it
            first_line = (str(error).strip() or "no message").splitlines()[0]
            obstacle = f"{type(error).__name__}: {first_line[:120]}"
        if obstacle is None:
            return VarlenChoice(name, attend, reasons)
        reasons[name] = obstacle
    return VarlenChoice("torch scaled_dot_product_attention", None, reasons)


def disagreement(
    attend: Varlen, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]
) -> str | None:
    """None when output and gradients on a small packed case equal one sequence at a time."""
    generator = torch.Generator().manual_seed(0)
    total, (num_heads, num_kv_heads, head_dim) = sum(_CASE_LENGTHS), heads
    shapes = [(total, h, head_dim) for h in (num_heads, num_kv_heads, num_kv_heads, num_heads)]
    *inputs, upstream = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    inputs = [x.requires_grad_() for x in inputs]
    bounds = packed_bounds(_CASE_LENGTHS, device)
    got = attend(*inputs, bounds, max(_CASE_LENGTHS), None)
    want = _one_by_one(*(x.float() for x in inputs), _CASE_LENGTHS)
    pairs = [("output", got, want)]
    for name, a, b in zip(
        ("query", "key", "value"),
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(want, inputs, upstream.float()),
        strict=True,
    ):
        pairs.append((f"gradient of the {name}", a, b))
    for name, a, b in pairs:
        a, b = a.detach().float(), b.detach().float()
        error = float((a - b).abs().max() / b.abs().max())
        if not error < _TOLERANCE:
            return f"its {name} is off by {error:.1e}"
    return None


def packed_bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    """[N + 1] int32: where each packed sequence starts, and the end."""
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return bounds.to(device, non_blocking=True)


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    parts = []
    for start, stop in pairwise(accumulate(lengths, initial=0)):
        q, k, v = (x[None, start:stop].transpose(1, 2) for x in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def _flash_attn() -> Varlen:
    from flash_attn import flash_attn_varlen_func

    def attend(query, key, value, bounds, longest, scale):
        options = {"softmax_scale": scale, "causal": True}
        return flash_attn_varlen_func(
            query, key, value, bounds, bounds, longest, longest, **options
        )

    return attend


def _torch() -> Varlen:
    from torch.nn.attention.varlen import varlen_attn

    def attend(query, key, value, bounds, longest, scale):
        options = {"scale": scale, "window_size": (-1, 0), "enable_gqa": True}
        return varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)

    return attend
