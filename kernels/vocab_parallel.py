"""linear_policy_loss with the weight sharded by rows of the vocabulary over a process group.

Shard i holds some consecutive rows of weight; every process has all of hidden, target and
token_weight. From each shard's own lse_i, entropy_i, sum p^2 and sum p^2 log p, with its share
a_i = exp(lse_i - lse) of the probability:
    lse = log sum_i exp(lse_i);   H = sum_i a_i (H_i - log a_i)
    sum p^2 = sum_i a_i^2 q_i;    sum p^2 log p = sum_i a_i^2 (w_i + q_i log a_i)
One packed all-reduce a chunk carries them; one more at the end adds the hidden gradients. Runs
eagerly: its collectives are not wrapped for torch.compile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nsr_fast.kernels import reference
from nsr_fast.kernels.backends import resolve_backend
from nsr_fast.kernels.checks import check_head, check_per_token, check_targets
from nsr_fast.kernels.chunks import Gradients, Head, RowFunctions, row_functions
from nsr_fast.kernels.linear_policy_loss import (
    PolicyLoss,
    check_arguments,
    check_options,
    policy_result,
)
from nsr_fast.kernels.policy_ops import with_gradients
from nsr_fast.kernels.policy_rows import policy_rows
from nsr_fast.kernels.reference import RowStats
from nsr_fast.kernels.surrogates import SurrogateFn


def vocab_parallel_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    shard_sizes: Sequence[int] | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    surrogate: SurrogateFn | None = None,
    old_logprob: Tensor | None = None,
    sampler_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    entropy_coef: float = 0.0,
    logits_dtype: torch.dtype | None = None,
    backend: str = "auto",
    chunk_rows: int | None = None,
) -> PolicyLoss:
    """linear_policy_loss of the concatenated shards, the same on every process of the group.

    hidden        [T, D]    the same on every process
    weight        [V_i, D]  this process's rows, at least one; shards follow the group's rank order
    target        [T]       int64 in [0, sum_i V_i), the same on every process
    token_weight  [T]       float32, the same on every process
    shard_sizes   V_i of every rank; None asks the group (one small all-reduce that waits for it)
    bias          [V_i]     the shard's part
    Returns       PolicyLoss; hidden gets the whole gradient everywhere, weight and bias their part
    Raises        as linear_policy_loss; a process that raises leaves the others waiting
    """
    check_arguments(hidden, weight, target, token_weight, bias)
    check_head(hidden, weight, target, bias, temperature, softcap, logits_dtype)
    check_per_token("token_weight", token_weight, hidden.shape[0], hidden.device)
    sides = {
        "old_logprob": old_logprob,
        "sampler_logprob": sampler_logprob,
        "ref_logprob": ref_logprob,
    }
    check_options(surrogate, sides, hidden, entropy_coef, chunk_rows)
    sizes = _shard_sizes(weight, shard_sizes, group)
    check_targets(target, sum(sizes), token_weight != 0)
    logits_dtype = logits_dtype or hidden.dtype
    backend = resolve_backend(backend, hidden.device, logits_dtype)
    head = Head(
        weight.detach(),
        None if bias is None else bias.detach(),
        temperature,
        softcap,
        logits_dtype,
        backend,
        chunk_rows,
    )
    shard = _Shard(row_functions(head), sum(sizes[: dist.get_rank(group)]), weight.shape[0], group)
    gradients = _buffers(hidden, weight, bias)
    loss, rows = policy_rows(
        head,
        RowFunctions(shard.row_stats, shard.row_grad_, None),
        hidden.detach(),
        target,
        token_weight.detach(),
        tuple(None if x is None else x.detach() for x in sides.values()),
        surrogate,
        float(entropy_coef),
        gradients,
        vocab=sum(sizes),
    )
    if gradients.hidden is not None:
        dist.all_reduce(gradients.hidden, group=group)
    pairs = zip((hidden, weight, bias), (gradients.hidden, gradients.weight, gradients.bias))
    pairs = [(x, g.to(x.dtype)) for x, g in pairs if g is not None]
    if pairs:
        loss = with_gradients(loss, [x for x, _ in pairs], [g for _, g in pairs], False)
    return policy_result(loss, rows, token_weight, temperature)


@dataclass(frozen=True, slots=True)
class _Shard:
    """Row operations on this process's columns whose statistics are those of the whole row."""

    local: RowFunctions
    start: int
    size: int
    group: dist.ProcessGroup | None

    def row_stats(
        self, logits: Tensor, target: Tensor, *, temperature: float, softcap: float | None
    ) -> RowStats:
        local_target, is_local = self._localise(target)
        scaling = {"temperature": temperature, "softcap": softcap}
        part = self.local.row_stats(logits, local_target, **scaling)
        top = logits.amax(dim=1).to(part.lse)
        chosen = logits.gather(1, local_target[:, None]).squeeze(1).to(part.lse)
        rows = [part.lse, part.entropy, part.sum_p2, part.sum_p2_logp, top]
        own = [part.logprob, chosen]
        zero = torch.zeros_like(part.lse)
        rows += [torch.where(is_local, x, zero) for x in own] + [is_local.to(part.lse)]
        return _combine(self._share(torch.stack(rows)), part.lse.dtype)

    def row_grad_(
        self,
        logits: Tensor,
        target: Tensor,
        lse: Tensor,
        entropy: Tensor,
        c: Tensor,
        e: Tensor | None,
        *,
        temperature: float,
        softcap: float | None,
    ) -> None:
        local_target, is_local = self._localise(target)
        options = {"temperature": temperature, "softcap": softcap}
        # Rows whose target lives elsewhere use column 0 as a stand-in; its true value is made by
        # the reference on a two-column tile in which the second column plays the target.
        pair = torch.stack([logits[:, 0], torch.full_like(logits[:, 0], -torch.inf)], dim=1)
        second = torch.ones_like(target)
        reference.row_grad_(pair, second, lse, entropy, c, e, **options)
        self.local.row_grad_(logits, local_target, lse, entropy, c, e, **options)
        logits[:, 0] = torch.where(is_local, logits[:, 0], pair[:, 0])

    def _localise(self, target: Tensor) -> tuple[Tensor, Tensor]:
        shifted = target - self.start
        is_local = (shifted >= 0) & (shifted < self.size)
        return torch.where(is_local, shifted, torch.zeros_like(shifted)), is_local

    def _share(self, rows: Tensor) -> Tensor:
        """rows [K, C] of every rank as [world, K, C] float64, by one all-reduce."""
        world = dist.get_world_size(self.group)
        packed = rows.new_zeros(world, *rows.shape, dtype=torch.float64)
        packed[dist.get_rank(self.group)] = rows
        dist.all_reduce(packed, group=self.group)
        return packed


def _combine(packed: Tensor, dtype: torch.dtype) -> RowStats:
    """The formulas at the top of the file; packed [world, 8, C]."""
    lse_i, entropy_i, q_i, w_i, top_i, logprob_i, chosen, is_local = packed.unbind(1)
    is_here = is_local.bool()
    lse = lse_i.logsumexp(dim=0)
    log_share = lse_i - lse
    share = log_share.exp()
    finite = log_share.masked_fill(share == 0, 0.0)
    share2 = share * share
    logprob = torch.where(is_here, logprob_i + log_share, torch.zeros_like(lse_i)).sum(dim=0)
    is_top = chosen.masked_fill(~is_here, 0.0).sum(dim=0) >= top_i.amax(dim=0)
    rows = {
        "logprob": logprob.clamp(max=0.0),
        "entropy": (share * (entropy_i - finite)).sum(dim=0).clamp(min=0.0),
        "lse": lse,
        "sum_p2": (share2 * q_i).sum(dim=0),
        "sum_p2_logp": (share2 * (w_i + q_i * finite)).sum(dim=0),
    }
    return RowStats(greedy=is_top, **{name: row.to(dtype) for name, row in rows.items()})


def _shard_sizes(
    weight: Tensor, sizes: Sequence[int] | None, group: dist.ProcessGroup | None
) -> list[int]:
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    if sizes is None:
        counts = torch.zeros(world, dtype=torch.int64, device=weight.device)
        counts[rank] = weight.shape[0]
        dist.all_reduce(counts, group=group)
        return counts.tolist()
    if len(sizes) != world or sizes[rank] != weight.shape[0]:
        want = f"{world} sizes with {weight.shape[0]} (the rows of weight) at rank {rank}"
        raise ValueError(f"shard_sizes: expected {want}, got {list(sizes)}")
    return list(sizes)


def _buffers(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Gradients:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    buffers = (
        torch.zeros_like(x, dtype=wide)
        if x is not None and x.requires_grad and torch.is_grad_enabled()
        else None
        for x in (hidden, weight, bias)
    )
    return Gradients(*buffers)
