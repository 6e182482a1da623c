"""The policy loss over active rows, chunk by chunk: statistics, loss terms, gradients.

Statistics first, then c and e from the surrogate, then dlogits; when c and e do not depend on the
statistics (no surrogate) one fused row kernel does it all while a row is in cache.
"""

import torch
from torch import Tensor

from nsr_fast.kernels.chunks import (
    Chunk,
    Gradients,
    Head,
    RowFunctions,
    active_rows,
    add_gradients,
    chunks,
    clear_unused,
)
from nsr_fast.kernels.reference import RowStats
from nsr_fast.kernels.stats import ROW_NAMES
from nsr_fast.kernels.surrogates import SurrogateFn, TokenRows, TokenTerms, check_terms


def policy_rows(
    head: Head,
    kernels: RowFunctions,
    hidden: Tensor,
    target: Tensor,
    token_weight: Tensor,
    sides: tuple[Tensor | None, Tensor | None, Tensor | None],
    surrogate: SurrogateFn | None,
    entropy_coef: float,
    gradients: Gradients,
    *,
    vocab: int | None = None,
) -> tuple[Tensor, Tensor]:
    """loss [] and the rows of stats.ROW_NAMES [10, T]; fills the gradient buffers.

    sides  old, sampler and reference logprob [T] or None
    vocab  number of classes when head.weight holds only some of their rows
    A target out of range (which only the CPU checks beforehand) makes its row and the loss NaN.
    """
    vocab = head.weight.shape[0] if vocab is None else vocab
    wide = torch.promote_types(head.logits_dtype, torch.float32)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        active = active_rows(token_weight != 0, hidden.device)
        clear_unused(gradients, hidden.shape[0], active)
        is_bad = (target < 0) | (target >= vocab)
        weights = token_weight.to(hidden.device, wide).masked_fill(is_bad, torch.nan)
        rows = hidden.new_zeros(len(ROW_NAMES), hidden.shape[0], dtype=wide)
        for chunk in chunks(head, hidden, target.masked_fill(is_bad, 0), active):
            side = [None if x is None else x[chunk.rows].to(wide) for x in sides]
            part = _one_chunk(
                head, kernels, chunk, weights[chunk.rows], side, surrogate, entropy_coef, gradients
            )
            if isinstance(chunk.rows, slice):
                rows[:, chunk.rows] = part
            else:
                rows.index_copy_(1, chunk.rows, part)
        loss = rows[ROW_NAMES.index("loss")].sum(dtype=torch.float64).to(wide)
    return loss, rows


def _one_chunk(
    head: Head,
    kernels: RowFunctions,
    chunk: Chunk,
    token_weight: Tensor,
    sides: list[Tensor | None],
    surrogate: SurrogateFn | None,
    entropy_coef: float,
    gradients: Gradients,
) -> Tensor:
    """Statistics, loss terms and gradients of one chunk; returns its [10, C] rows."""
    scaling = head.scaling()
    if surrogate is None and gradients.are_wanted and kernels.row_stats_grad_ is not None:
        e = torch.full_like(token_weight, -entropy_coef) if entropy_coef else None
        stats = kernels.row_stats_grad_(chunk.logits, chunk.target, -token_weight, e, **scaling)
        terms = TokenTerms(-token_weight * stats.logprob, -token_weight, e)
    else:
        stats = kernels.row_stats(chunk.logits, chunk.target, **scaling)
        terms = _terms(stats, token_weight, sides, surrogate, entropy_coef)
        if gradients.are_wanted:
            saved = (stats.lse, stats.entropy, terms.c, terms.e)
            kernels.row_grad_(chunk.logits, chunk.target, *saved, **scaling)
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
