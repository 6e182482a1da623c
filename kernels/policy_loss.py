"""Fused language-model head and token-local policy loss: three matrix products, no [T, V] logits.

    loss = sum_t f(logprob_t, entropy_t, token_weight_t, ...) - entropy_coef sum_t entropy_t
    logprob_t = log softmax(hidden_t @ weight^T / temperature)[target_t],  f = -token_weight logprob
A row's c = dloss/dlogprob and e = dloss/dentropy follow from its own logits row, so the gradients
are made in the forward pass (kernels/head_loop.py) and only scaled in the backward pass. A compiled
program breaks its graph here: the pass runs eagerly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels.head import Head, TermsFn, TokenInputs, inputs_of
from nsr_fast.kernels.head_loop import ROW_NAMES, Gradients, policy_rows
from nsr_fast.kernels.policy_stats import PolicyStats
from nsr_fast.kernels.rows import text


@dataclass(frozen=True, slots=True, eq=False)
class PolicyLoss:
    """loss [] is differentiable; the rest is detached, [T] float32, 0 where token_weight is 0."""

    loss: Tensor
    logprob: Tensor
    entropy: Tensor
    lse: Tensor
    stats: PolicyStats


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How the pass runs: see linear_policy_loss, whose arguments these are."""

    entropy_coef: float = 0.0
    tail_mass: float = 0.0
    accumulate_into_grad: bool = False

    def __post_init__(self) -> None:
        x = self.entropy_coef
        is_number = isinstance(x, (int, float)) and not isinstance(x, bool)
        if not is_number or not abs(x) < float("inf"):
            raise ValueError(f"entropy_coef: expected a finite number, got {x!r}")
        if self.tail_mass != 0.0:
            got = repr(self.tail_mass)
            raise ValueError(f"tail_mass: only 0.0 (exact gradients) is offered, got {got}")


@torch.compiler.disable
def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    surrogate: TermsFn | None = None,
    old_logprob: Tensor | None = None,
    sampler_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    entropy_coef: float = 0.0,
    logits_dtype: torch.dtype | None = None,
    tail_mass: float = 0.0,
    backend: str = "auto",
    chunk_rows: int | None = None,
    accumulate_into_grad: bool = False,
    **more_sides: Tensor | None,
) -> PolicyLoss:
    """Signed, per-token weighted policy loss of a linear head without storing logits.

        loss = -sum_t token_weight[t] * logprob[t]    (surrogate None)

    hidden        [T, D]  float32 | bfloat16 | float16 | float64, contiguous
    weight        [V, D]  same dtype and device as hidden (under autocast both are cast)
    target        [T]     int64 in [0, V); checked on the CPU, elsewhere a bad one makes loss NaN
    token_weight  [T]     float32, signed; 0 skips the row and all its work, NaN hidden included. It
                          may live on the CPU while hidden does not: then nothing waits for the GPU
    bias          [V]     added to the logits, same dtype as weight
    temperature, softcap  u = softcap * tanh(x / softcap) / temperature
    surrogate             None (REINFORCE) or a callable TokenRows -> TokenTerms, as PolicyGradient,
                          PpoClip and Cispo of nsr_fast/objective/terms.py
    old_logprob, sampler_logprob, ref_logprob   [T], what the surrogate needs, as are the other side
                          inputs by their names in TokenRows (nsr_fast/kernels/tokens.py)
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
    side = {
        "old_logprob": old_logprob,
        "sampler_logprob": sampler_logprob,
        "ref_logprob": ref_logprob,
        **more_sides,
    }
    head, tokens = inputs_of(
        hidden,
        weight,
        target,
        token_weight,
        bias=bias,
        side=side,
        temperature=temperature,
        softcap=softcap,
        logits_dtype=logits_dtype,
        backend=backend,
        chunk_rows=chunk_rows,
    )
    options = PassOptions(entropy_coef, tail_mass, accumulate_into_grad)
    return policy_pass(head, tokens, surrogate, options, leaves=(weight, bias))


@torch.compiler.disable
def policy_pass(
    head: Head,
    tokens: TokenInputs,
    terms: TermsFn | None = None,
    options: PassOptions | None = None,
    *,
    leaves: tuple[Tensor, Tensor | None] | None = None,
) -> PolicyLoss:
    """linear_policy_loss of inputs that have checked themselves.

    leaves  where accumulate_into_grad adds: weight and bias as they were before autocast
    """
    options = options or PassOptions()
    tokens.check(head, terms)
    inputs = (tokens.hidden, head.weight, head.bias)
    into = leaves or inputs[1:] if options.accumulate_into_grad else None
    gradients = _buffers(inputs, into, is_sharded=head.shard is not None)
    rows = policy_rows(head, tokens, gradients, terms, float(options.entropy_coef))
    if head.shard is not None and gradients.hidden is not None:
        head.shard.add_up_(gradients.hidden)
    columns = dict(zip(ROW_NAMES, rows.unbind(0)))
    loss = columns["loss"].sum(dtype=torch.float64).to(rows.dtype)
    lse = columns.pop("lse")
    weights = tokens.token_weight.detach().to(rows)
    stats = PolicyStats(token_weight=weights, temperature=head.temperature, **columns)
    return PolicyLoss(_attach(loss, inputs, gradients), stats.logprob, stats.entropy, lse, stats)


def _buffers(
    inputs: tuple[Tensor, Tensor, Tensor | None],
    into: tuple[Tensor, Tensor | None] | None,
    *,
    is_sharded: bool,
) -> Gradients:
    """Where the gradients of hidden, weight and bias go; None where none is wanted."""
    if not torch.is_grad_enabled():
        return Gradients(None, None, None)
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    dtypes = (wide if is_sharded else inputs[0].dtype, wide, wide)
    hidden, *others = (
        torch.empty_like(x, dtype=dtype) if x is not None and x.requires_grad else None
        for x, dtype in zip(inputs if into is None else inputs[:1], dtypes)
    )
    if into is not None:
        others = (_own_grad(name, leaf) for name, leaf in zip(("weight", "bias"), into))
    return Gradients(hidden, *others, accumulate=into is not None)


def _own_grad(name: str, leaf: Tensor | None) -> Tensor | None:
    """The float32 .grad of a leaf, made when it is None."""
    if leaf is None or not leaf.requires_grad:
        return None
    if torch._C._current_graph_task_id() != -1:
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
    loss: Tensor, inputs: tuple[Tensor, Tensor, Tensor | None], gradients: Gradients
) -> Tensor:
    """loss, differentiable with the gradients the pass has already produced."""
    made = (gradients.hidden, gradients.weight, gradients.bias)
    pairs = [(x, g) for x, g in zip(inputs, made) if g is not None]
    if not pairs:
        return loss
    leaves = [x for x, _ in pairs]
    if gradients.accumulate:  # weight and bias have theirs
        pairs = pairs[:1] if gradients.hidden is not None else []
        leaves = leaves[:1] if pairs else leaves  # backward() must be possible without hidden too
    kept = [g.to(x.dtype) for x, g in pairs]
    return _WithGradients.apply(loss, kept, gradients.accumulate, *leaves)


class _WithGradients(torch.autograd.Function):
    """loss unchanged, with the given gradients of the first of `leaves` and none of the rest.

    is_unit: some gradients lie in .grad already, so the upstream gradient must be 1, once.
    """

    @staticmethod
    def forward(ctx, loss: Tensor, gradients: list[Tensor], is_unit: bool, *leaves: Tensor):
        ctx.save_for_backward(*gradients)
        ctx.is_unit, ctx.num_leaves, ctx.is_used = is_unit, len(leaves), False
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_policy_loss is differentiable once: create_graph=True is not supported"
            )
        if ctx.is_unit and ctx.is_used:
            raise RuntimeError("linear_policy_loss: accumulate_into_grad allows one backward pass")
        ctx.is_used = True
        gradients = list(ctx.saved_tensors)
        if torch._C._autograd._get_current_graph_task_keep_graph():  # may be followed by another
            gradients = [gradient.clone() for gradient in gradients]
        _scale_(gradients, upstream, is_unit=ctx.is_unit)
        return None, None, None, *gradients, *[None] * (ctx.num_leaves - len(gradients))


def _scale_(gradients: list[Tensor], upstream: Tensor, *, is_unit: bool) -> None:
    """gradients *= upstream in place. With is_unit another upstream than 1 is an error: raised on
    the CPU, turned into NaN on a GPU, where looking at it would wait for the device."""
    if upstream.is_cuda:
        factor = torch.where(upstream == 1, upstream, torch.nan) if is_unit else upstream
    else:
        factor = float(upstream)
        if factor == 1.0:
            return
        if is_unit:
            raise RuntimeError(
                "linear_policy_loss: accumulate_into_grad needs an upstream gradient of 1, "
                f"got {factor}; put scale factors into token_weight"
            )
    for gradient in gradients:
        gradient.mul_(factor)
