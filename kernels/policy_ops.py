"""torch.library operators behind linear_policy_loss.

nsr_fast::policy_loss runs the chunk loop and fills the gradient buffers it is given (it mutates
them and has no derivative of its own); nsr_fast::with_gradients returns the loss unchanged and
hands those buffers to autograd. Both have fake versions, so torch.compile keeps them whole.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nsr_fast.kernels.backends import resolve_backend
from nsr_fast.kernels.chunks import (
    Chunk,
    Gradients,
    Head,
    active_rows,
    add_gradients,
    chunks,
    clear_unused,
    row_functions,
)
from nsr_fast.kernels.reference import RowStats
from nsr_fast.kernels.stats import ROW_NAMES
from nsr_fast.kernels.surrogates import (
    SurrogateFn,
    TokenRows,
    TokenTerms,
    check_terms,
    find_surrogate,
)


@torch.library.custom_op(
    "nsr_fast::policy_loss", mutates_args=("grad_hidden", "grad_weight", "grad_bias")
)
def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    token_weight: Tensor,
    old_logprob: Tensor | None,
    sampler_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    accumulate: bool,
    temperature: float,
    softcap: float | None,
    surrogate: str,
    numbers: Sequence[float],
    entropy_coef: float,
    logits_dtype: torch.dtype,
    backend: str,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """loss [] and the per-token rows of stats.ROW_NAMES [10, T]; fills the gradient buffers."""
    backend = resolve_backend(backend, hidden.device, logits_dtype)
    head = Head(weight, bias, temperature, softcap, logits_dtype, backend, chunk_rows)
    gradients = Gradients(grad_hidden, grad_weight, grad_bias, accumulate)
    sides = (old_logprob, sampler_logprob, ref_logprob)
    function = find_surrogate(surrogate, numbers)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        is_bad = (target < 0) | (target >= weight.shape[0])
        target = target.masked_fill(is_bad, 0)
        active = active_rows(token_weight != 0, hidden.device)
        clear_unused(gradients, hidden.shape[0], active)
        weights = token_weight.to(hidden.device)
        wide = torch.promote_types(logits_dtype, torch.float32)
        poisoned = weights.to(wide).masked_fill(is_bad & (weights != 0), torch.nan)
        rows = hidden.new_zeros(len(ROW_NAMES), hidden.shape[0], dtype=wide)
        for chunk in chunks(head, hidden, target, active):
            side = [None if x is None else x[chunk.rows].to(wide) for x in sides]
            part = _loss_of_chunk(
                head, chunk, gradients, poisoned[chunk.rows], side, function, entropy_coef
            )
            if isinstance(chunk.rows, slice):
                rows[:, chunk.rows] = part
            else:
                rows.index_copy_(1, chunk.rows, part)
        loss = rows[ROW_NAMES.index("loss")].sum(dtype=torch.float64).to(wide)
    return loss, rows


@policy_loss.register_fake
def _(hidden, weight, bias, target, token_weight, old_logprob, *rest):
    logits_dtype = rest[-3]
    wide = torch.promote_types(logits_dtype, torch.float32)
    rows = hidden.new_empty(len(ROW_NAMES), hidden.shape[0], dtype=wide)
    return hidden.new_empty((), dtype=wide), rows


@torch.library.custom_op("nsr_fast::with_gradients", mutates_args=())
def with_gradients(
    loss: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor], is_unit: bool
) -> Tensor:
    """loss, differentiable in `inputs` with the given gradients; is_unit: upstream must be 1."""
    return loss.clone()


@with_gradients.register_fake
def _(loss, inputs, gradients, is_unit):
    return torch.empty_like(loss)


@torch.library.custom_op("nsr_fast::scale_", mutates_args=("gradients",))
def scale_(gradients: Sequence[Tensor], upstream: Tensor, is_unit: bool) -> None:
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


@scale_.register_fake
def _(gradients, upstream, is_unit):
    return None


def _save_gradients(ctx, inputs, output) -> None:
    _, _, gradients, ctx.is_unit = inputs
    ctx.save_for_backward(*gradients)


def _scaled_gradients(ctx, upstream: Tensor):
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "linear_policy_loss is differentiable once: create_graph=True is not supported"
        )
    gradients = list(ctx.saved_tensors)
    if _is_graph_kept():
        gradients = [gradient.clone() for gradient in gradients]
    scale_(gradients, upstream, ctx.is_unit)
    return None, gradients, [None] * len(gradients), None


with_gradients.register_autograd(_scaled_gradients, setup_context=_save_gradients)


def _is_graph_kept() -> bool:
    """Whether this backward pass may be followed by another over the same graph (retain_graph)."""
    return torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph()


def _loss_of_chunk(
    head: Head,
    chunk: Chunk,
    gradients: Gradients,
    token_weight: Tensor,
    sides: list[Tensor | None],
    surrogate: SurrogateFn | None,
    entropy_coef: float,
) -> Tensor:
    """Statistics, loss terms and gradients of one chunk; returns its [10, C] rows."""
    row_stats, row_grad_, row_stats_grad_ = row_functions(head)
    scaling = head.scaling()
    if surrogate is None and gradients.are_wanted:
        e = torch.full_like(token_weight, -entropy_coef) if entropy_coef else None
        stats = row_stats_grad_(chunk.logits, chunk.target, -token_weight, e, **scaling)
        terms = TokenTerms(-token_weight * stats.logprob, -token_weight, e)
    else:
        stats = row_stats(chunk.logits, chunk.target, **scaling)
        terms = _terms(stats, token_weight, sides, surrogate, entropy_coef)
        if gradients.are_wanted:
            saved = (stats.lse, stats.entropy, terms.c, terms.e)
            row_grad_(chunk.logits, chunk.target, *saved, **scaling)
    if gradients.are_wanted:
        add_gradients(head, chunk, gradients)
    loss = terms.loss - entropy_coef * stats.entropy if entropy_coef else terms.loss
    return _pack(stats, loss, terms)


def _terms(
    stats: RowStats,
    token_weight: Tensor,
    sides: list[Tensor | None],
    surrogate: SurrogateFn | None,
    entropy_coef: float,
) -> TokenTerms:
    """The surrogate's terms with the entropy bonus's share added to e."""
    if surrogate is None:
        terms = TokenTerms(-token_weight * stats.logprob, -token_weight)
    else:
        terms = surrogate(TokenRows(stats.logprob, stats.entropy, token_weight, *sides))
        check_terms(terms, token_weight)
    if not entropy_coef:
        return terms
    e = terms.e if terms.e is not None else torch.zeros_like(token_weight)
    return TokenTerms(terms.loss, terms.c, e - entropy_coef, terms.is_clipped)


def _pack(stats: RowStats, loss: Tensor, terms: TokenTerms) -> Tensor:
    zeros = torch.zeros_like(loss)
    rows = {
        "logprob": stats.logprob,
        "entropy": stats.entropy,
        "lse": stats.lse,
        "sum_p2": stats.sum_p2,
        "sum_p2_logp": stats.sum_p2_logp,
        "greedy": stats.greedy.to(loss.dtype),
        "loss": loss,
        "c": terms.c,
        "e": zeros if terms.e is None else terms.e,
        "is_clipped": zeros if terms.is_clipped is None else terms.is_clipped.to(loss.dtype),
    }
    return torch.stack([rows[name] for name in ROW_NAMES])
