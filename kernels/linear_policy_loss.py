"""Fused language-model head and token-local policy loss: three matrix products, no [T, V] logits.

    loss = sum_t f(logprob_t, entropy_t, token_weight_t, ...) - entropy_coef sum_t entropy_t
    logprob_t = log softmax(hidden_t @ weight^T / temperature)[target_t],  f = -token_weight logprob
A row's c = dloss/dlogprob and e = dloss/dentropy follow from its own logits row, so the gradients
are made in the forward pass (kernels/chunks.py) and only scaled in the backward pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels.backends import check_backend
from nsr_fast.kernels.checks import (
    cast_for_autocast,
    check_head,
    check_per_token,
    check_tensors,
    text,
)
from nsr_fast.kernels.policy_ops import policy_loss, with_gradients
from nsr_fast.kernels.stats import ROW_NAMES, PolicyStats
from nsr_fast.kernels.surrogates import Surrogate, SurrogateFn, surrogate_key


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """loss [] is differentiable; the rest is detached, [T] float32, 0 where token_weight is 0."""

    loss: Tensor
    logprob: Tensor
    entropy: Tensor
    lse: Tensor
    stats: PolicyStats


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    surrogate: SurrogateFn | None = None,
    old_logprob: Tensor | None = None,
    sampler_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    entropy_coef: float = 0.0,
    logits_dtype: torch.dtype | None = None,
    tail_mass: float = 0.0,
    backend: str = "auto",
    chunk_rows: int | None = None,
    accumulate_into_grad: bool = False,
) -> PolicyLoss:
    """Signed, per-token weighted policy loss of a linear head without storing logits.

        loss = -sum_t token_weight[t] * logprob[t]    (surrogate None; see kernels/surrogates.py)

    hidden        [T, D]  float32 | bfloat16 | float16 | float64, contiguous
    weight        [V, D]  same dtype and device as hidden (under autocast both are cast)
    target        [T]     int64 in [0, V); checked on the CPU, elsewhere a bad one makes loss NaN
    token_weight  [T]     float32, signed; 0 skips the row and all its work, NaN hidden included. It
                          may live on the CPU while hidden does not: then nothing waits for the GPU
    bias          [V]     added to the logits, same dtype as weight
    temperature, softcap  u = softcap * tanh(x / softcap) / temperature
    surrogate             None (REINFORCE), PolicyGradient, PpoClip, Cispo, TokenRows -> TokenTerms
    old_logprob, sampler_logprob, ref_logprob   [T], what the surrogate needs
    entropy_coef          loss -= entropy_coef * entropy of each active row, whatever its weight
    logits_dtype          None: that of hidden; torch.float32: logits kept and read in float32
    tail_mass             0; positive values are refused
    chunk_rows            rows of one logits tile; None: chosen by size
    accumulate_into_grad  weight and bias gradients are added to .grad at once, in float32 (made
                          when None), without hooks of theirs (DDP, FSDP). backward() must then
                          start from this loss with gradient 1, once; no activation checkpointing
    Returns       PolicyLoss; loss is differentiable once in hidden, weight and bias
    Memory        one tile [chunk_rows, V] beside the gradients
    Raises        ValueError on shape, dtype, device or range; RuntimeError if the backend is absent
    """
    check_arguments(hidden, weight, target, token_weight, bias)
    grad_owner = (weight, bias)
    hidden, weight, bias = cast_for_autocast(hidden, weight, bias)
    _check(hidden, weight, target, token_weight, bias, temperature, softcap, logits_dtype)
    sides = {
        "old_logprob": old_logprob,
        "sampler_logprob": sampler_logprob,
        "ref_logprob": ref_logprob,
    }
    check_options(surrogate, sides, hidden, entropy_coef, chunk_rows)
    if tail_mass != 0.0:
        raise ValueError(f"tail_mass: only 0.0 (exact gradients) is offered, got {tail_mass!r}")
    check_backend(backend, hidden.device, logits_dtype or hidden.dtype)
    buffers = _gradient_buffers(hidden, weight, bias, grad_owner, accumulate_into_grad)
    key, numbers = surrogate_key(surrogate)
    loss, rows = policy_loss(
        hidden.detach(),
        weight.detach(),
        None if bias is None else bias.detach(),
        target,
        token_weight.detach(),
        *(None if x is None else x.detach() for x in sides.values()),
        *buffers,
        accumulate_into_grad,
        temperature,
        softcap,
        key,
        numbers,
        float(entropy_coef),
        logits_dtype or hidden.dtype,
        backend,
        chunk_rows,
    )
    loss = _attach(loss, hidden, weight, bias, buffers, accumulate_into_grad)
    return policy_result(loss, rows, token_weight, temperature)


def policy_result(
    loss: Tensor, rows: Tensor, token_weight: Tensor, temperature: float
) -> PolicyLoss:
    """PolicyLoss from the loss and the rows of stats.ROW_NAMES [10, T]."""
    columns = dict(zip(ROW_NAMES, rows.unbind(0)))
    lse = columns.pop("lse")
    weights = token_weight.detach().to(rows)
    stats = PolicyStats(token_weight=weights, temperature=temperature, **columns)
    return PolicyLoss(loss, stats.logprob, stats.entropy, lse, stats)


def check_arguments(
    hidden: Tensor, weight: Tensor, target: Tensor, token_weight: Tensor, bias: Tensor | None
) -> None:
    """The positional ones are tensors; ValueError that names the first that is not."""
    required = {"hidden": hidden, "weight": weight, "target": target, "token_weight": token_weight}
    check_tensors(required, {"bias": bias})


def check_options(
    surrogate: SurrogateFn | None,
    sides: dict[str, Tensor | None],
    hidden: Tensor,
    entropy_coef: float,
    chunk_rows: int | None,
) -> None:
    """Side inputs, surrogate and numbers; ValueError with name, expected, got."""
    check_tensors({}, sides)
    for name, side in sides.items():
        check_per_token(name, side, hidden.shape[0], hidden.device)
    if surrogate is not None and (not callable(surrogate) or isinstance(surrogate, type)):
        raise ValueError(f"surrogate: expected None or a callable, got {surrogate!r}")
    if isinstance(surrogate, Surrogate):
        for name in surrogate.required():
            if sides[name] is None:
                raise ValueError(f"{name}: expected [T], got None; {surrogate!r} reads it")
    is_number = isinstance(entropy_coef, (int, float)) and not isinstance(entropy_coef, bool)
    if not is_number or not abs(entropy_coef) < float("inf"):
        raise ValueError(f"entropy_coef: expected a finite number, got {entropy_coef!r}")
    is_count = isinstance(chunk_rows, int) and not isinstance(chunk_rows, bool)
    if chunk_rows is not None and (not is_count or not 1 <= chunk_rows < 2**63):
        raise ValueError(f"chunk_rows: expected None or an integer >= 1, got {chunk_rows!r}")


def _check(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    logits_dtype: torch.dtype | None,
) -> None:
    check_head(hidden, weight, target, bias, temperature, softcap, logits_dtype)
    where = token_weight.device if token_weight.device.type == "cpu" else hidden.device
    check_per_token("token_weight", token_weight, hidden.shape[0], where)


def _gradient_buffers(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    owner: tuple[Tensor, Tensor | None],
    accumulate: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Where the hidden, weight and bias gradients go; None where none is wanted."""
    if not torch.is_grad_enabled():
        return None, None, None
    grad_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
    if accumulate:
        named = zip(("weight", "bias"), owner)
        return grad_hidden, *(_own_grad(name, leaf) for name, leaf in named)
    wide = torch.promote_types(weight.dtype, torch.float32)
    buffers = (
        torch.empty_like(x, dtype=wide) if x is not None and x.requires_grad else None
        for x in (weight, bias)
    )
    return grad_hidden, *buffers


def _own_grad(name: str, leaf: Tensor | None) -> Tensor | None:
    """The float32 .grad of a leaf, made when it is None."""
    if leaf is None or not leaf.requires_grad:
        return None
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            f"{name}: accumulate_into_grad inside a backward pass (activation checkpointing runs "
            "the forward pass again there) would add the gradient twice; leave it False"
        )
    if not leaf.is_leaf:
        raise ValueError(f"{name}: accumulate_into_grad expected a leaf tensor, got {leaf.grad_fn}")
    wide = torch.promote_types(leaf.dtype, torch.float32)
    if leaf.grad is None:
        if leaf.dtype != wide:
            leaf.grad_dtype = wide
        leaf.grad = torch.zeros_like(leaf, dtype=wide)
    if leaf.grad.dtype != wide or not leaf.grad.is_contiguous():
        cure = "set it to None first"
        raise ValueError(f"{name}.grad: expected contiguous {wide}, got {text(leaf.grad)}; {cure}")
    return leaf.grad


def _attach(
    loss: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    buffers: tuple[Tensor | None, Tensor | None, Tensor | None],
    accumulate: bool,
) -> Tensor:
    """Make loss differentiable with the gradients the pass has already produced."""
    if all(buffer is None for buffer in buffers):
        return loss
    pairs = [(x, g) for x, g in zip((hidden, weight, bias), buffers) if g is not None]
    leaves = [x for x, _ in pairs]
    if accumulate and buffers[0] is not None:
        leaves, pairs = leaves[:1], pairs[:1]
    elif accumulate:  # nothing is left to hand over, yet backward() must be possible
        pairs = []
    gradients = [g if g.dtype == x.dtype else g.to(x.dtype) for x, g in pairs]
    return with_gradients(loss, leaves, gradients, accumulate)
