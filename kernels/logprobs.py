"""Log-probability and entropy of given tokens under a linear head, without [T, V] logits.

    logprob_t = log softmax(hidden_t @ weight^T / temperature)[target_t],  entropy_t in nats
The forward pass keeps [T] numbers; the backward pass recomputes the logits tile by tile, so this
costs four matrix products where linear_policy_loss costs three. It serves sequence-level ratios,
old and reference log-probabilities, and user code.
"""

from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from nsr_fast.kernels.head import (
    Head,
    cast_for_autocast,
    check_range,
    check_rows,
    check_tensors,
)
from nsr_fast.kernels.head_loop import Gradients, active_rows, add_gradients, chunks, clear_unused

FUSED = "triton_fused"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """All [T] float32; logprob and entropy are differentiable, lse is not."""

    logprob: Tensor
    entropy: Tensor
    lse: Tensor


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    logits_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> TokenLogprobs:
    """Token log-probabilities and entropies of a linear head without storing logits.

    hidden   [T, D]  float32 | bfloat16 | float16 | float64, contiguous
    weight   [V, D]  same dtype and device as hidden (under autocast both are cast)
    target   [T]     int64 in [0, V); checked on the CPU, elsewhere a bad one yields NaN
    bias     [V]     same dtype as weight
    backend  as in linear_policy_loss, or "triton_fused": a forward pass by tiles that never leave
             the chip, logits in float32 (the least memory; the backward pass still has its tile)
    Returns  TokenLogprobs; differentiable once in hidden, weight and bias. Rows whose upstream
             gradients are all zero cost nothing in the backward pass
    Memory   one tile [chunk, V] beside the results and gradients
    Raises   ValueError on shape, dtype, device or range; RuntimeError if the backend is absent
    """
    check_tensors({"hidden": hidden, "weight": weight, "target": target}, {"bias": bias})
    hidden, weight, bias = cast_for_autocast(hidden, weight, bias)
    options = (temperature, softcap, hidden.dtype if logits_dtype is None else logits_dtype)
    if not torch.compiler.is_compiling():  # a compiled program checks when it runs
        _checked_head(hidden, weight, bias, target, *options, backend)
    logprob, entropy, lse = _forward(hidden, weight, bias, target, *options, backend)
    return TokenLogprobs(logprob, entropy, lse.detach())


def _checked_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    temperature: float,
    softcap: float | None,
    logits_dtype: torch.dtype,
    backend: str,
) -> Head:
    """The arguments of the operators as a Head; its backend has the row kernels."""
    if backend == FUSED:
        backend, logits_dtype = "triton", torch.float32
    head = Head(weight, bias, temperature, softcap, logits_dtype, backend)
    check_rows(hidden, target)
    head.check_hidden(hidden)
    return head


@torch.library.custom_op("nsr_fast::linear_logprobs", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    temperature: float,
    softcap: float | None,
    logits_dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    head = _checked_head(hidden, weight, bias, target, temperature, softcap, logits_dtype, backend)
    check_range(target, head.classes)
    if backend == FUSED:
        fused = import_module("nsr_fast.kernels.logprobs_triton").linear_stats
        stats = fused(head, hidden, target)
        return stats.logprob.clone(), stats.entropy.clone(), stats.lse.clone()
    results = hidden.new_empty(3, hidden.shape[0], dtype=head.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        is_bad = (target < 0) | (target >= head.classes)
        for chunk in chunks(head, hidden, target.masked_fill(is_bad, 0), None):
            stats = head.row_pass_(chunk.logits, chunk.target)
            results[:, chunk.rows] = torch.stack([stats.logprob, stats.entropy, stats.lse])
        results.masked_fill_(is_bad, torch.nan)
    logprob, entropy, lse = results
    return logprob.clone(), entropy.clone(), lse.clone()


@_forward.register_fake
def _(hidden, weight, bias, target, temperature, softcap, logits_dtype, backend):
    wide = torch.promote_types(logits_dtype, torch.float32)
    return tuple(hidden.new_empty(hidden.shape[0], dtype=wide) for _ in range(3))


@torch.library.custom_op("nsr_fast::linear_logprobs_backward", mutates_args=())
def _backward(
    grad_logprob: Tensor,
    grad_entropy: Tensor,
    lse: Tensor,
    entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    temperature: float,
    softcap: float | None,
    logits_dtype: torch.dtype,
    backend: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; an empty tensor where `wanted` is false."""
    head = _checked_head(hidden, weight, bias, target, temperature, softcap, logits_dtype, backend)
    buffers = _buffers(hidden, weight, bias, wanted)
    gradients = Gradients(*(buffer if want else None for buffer, want in zip(buffers, wanted)))
    with torch.autocast(hidden.device.type, enabled=False):
        active = active_rows((grad_logprob != 0) | (grad_entropy != 0), hidden.device)
        clear_unused(head, gradients, hidden.shape[0], active)
        for chunk in chunks(head, hidden, target.clamp(0, head.classes - 1), active):
            rows = [x[chunk.rows] for x in (grad_logprob, grad_entropy, lse, entropy)]
            head.row_pass_(chunk.logits, chunk.target, *rows[:2], saved=tuple(rows[2:]))
            add_gradients(head, chunk, gradients)
    grad_hidden, grad_weight, grad_bias = buffers
    narrow = hidden.dtype
    return grad_hidden, grad_weight.to(narrow), grad_bias.to(narrow)


@_backward.register_fake
def _(grad_logprob, grad_entropy, lse, entropy, hidden, weight, bias, target, *rest):
    grad_hidden, grad_weight, grad_bias = _buffers(hidden, weight, bias, rest[-1])
    return grad_hidden, grad_weight.to(hidden.dtype), grad_bias.to(hidden.dtype)


def _buffers(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(weight.dtype, torch.float32)
    shapes = [hidden.shape, weight.shape, () if bias is None else bias.shape]
    shapes = [shape if want else (0,) for shape, want in zip(shapes, wanted)]
    dtypes = (hidden.dtype, wide, wide)
    return tuple(hidden.new_empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes))


def _save(ctx, inputs, output) -> None:
    hidden, weight, bias, target, *ctx.options = inputs
    _, entropy, lse = output
    ctx.save_for_backward(lse, entropy, hidden, weight, bias, target)
    ctx.wanted = [x is not None and x.requires_grad for x in (hidden, weight, bias)]
    ctx.mark_non_differentiable(lse)


def _differentiate(ctx, grad_logprob: Tensor, grad_entropy: Tensor, _) -> tuple:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "linear_logprobs is differentiable once: create_graph=True is not supported"
        )
    grads = _backward(grad_logprob, grad_entropy, *ctx.saved_tensors, *ctx.options, ctx.wanted)
    kept = (grad if want else None for grad, want in zip(grads, ctx.wanted))
    return *kept, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
