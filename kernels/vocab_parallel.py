"""A head whose rows of the vocabulary are sharded over a process group: Head(..., shard=...).

Shard i holds some consecutive rows of weight; every process has all of hidden, target and
token_weight, and policy_pass gives each the same loss, the whole hidden gradient and its part of
the weight's. From each shard's own lse_i, entropy_i, sum p^2 and sum p^2 log p, with its share
a_i = exp(lse_i - lse) of the probability:
    lse = log sum_i exp(lse_i);   H = sum_i a_i (H_i - log a_i)
    sum p^2 = sum_i a_i^2 q_i;    sum p^2 log p = sum_i a_i^2 (w_i + q_i log a_i)
One packed all-reduce a chunk carries them; one more at the end adds the hidden gradients. A process
that raises leaves the others waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nsr_fast.kernels.head import Head
from nsr_fast.kernels.rows import RowStats, row_pass_


@dataclass(frozen=True, slots=True, eq=False)
class VocabShard:
    """This process's rows start <= v < start + size of a head of `classes` rows."""

    start: int
    size: int
    classes: int
    group: dist.ProcessGroup | None = None

    def row_pass_(
        self,
        head: Head,
        logits: Tensor,
        target: Tensor,
        c: Tensor | None,
        e: Tensor | None,
        saved: tuple[Tensor, Tensor] | None,
    ) -> RowStats | None:
        """Statistics of whole rows, or their gradient in this shard's columns (with saved)."""
        shifted = target - self.start
        is_local = (shifted >= 0) & (shifted < self.size)
        local = torch.where(is_local, shifted, torch.zeros_like(shifted))
        if saved is None:
            return self._statistics(head, logits, local, is_local)
        # Rows whose target lives elsewhere use column 0 as a stand-in; its true value is made by
        # the reference on a two-column tile in which the second column plays the target.
        pair = torch.stack([logits[:, 0], torch.full_like(logits[:, 0], -torch.inf)], dim=1)
        row_pass_(head.tile(pair, torch.ones_like(target), "reference"), c, e, saved=saved)
        row_pass_(head.tile(logits, local), c, e, saved=saved)
        logits[:, 0] = torch.where(is_local, logits[:, 0], pair[:, 0])
        return None

    def add_up_(self, grad_hidden: Tensor) -> None:
        dist.all_reduce(grad_hidden, group=self.group)

    def _statistics(self, head: Head, logits: Tensor, local: Tensor, is_local: Tensor) -> RowStats:
        part = row_pass_(head.tile(logits, local))
        top = logits.amax(dim=1).to(part.lse)
        chosen = logits.gather(1, local[:, None]).squeeze(1).to(part.lse)
        rows = [part.lse, part.entropy, part.sum_p2, part.sum_p2_logp, top]
        zero = torch.zeros_like(part.lse)
        rows += [torch.where(is_local, x, zero) for x in (part.logprob, chosen)]
        return _combine(self._share(torch.stack([*rows, is_local.to(part.lse)])), part.lse.dtype)

    def _share(self, rows: Tensor) -> Tensor:
        """rows [K, C] of every rank as [world, K, C] float64, by one all-reduce."""
        world = dist.get_world_size(self.group)
        packed = rows.new_zeros(world, *rows.shape, dtype=torch.float64)
        packed[dist.get_rank(self.group)] = rows
        dist.all_reduce(packed, group=self.group)
        return packed


def vocab_shard(
    rows: int,
    sizes: Sequence[int] | None = None,
    *,
    group: dist.ProcessGroup | None = None,
    device: torch.device | None = None,
) -> VocabShard:
    """The shard of this process, which holds `rows` rows; shards follow the group's rank order.

    sizes  rows of every rank; None asks the group (one small all-reduce on `device`, waited for)
    """
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    if sizes is None:
        counts = torch.zeros(world, dtype=torch.int64, device=device)
        counts[rank] = rows
        dist.all_reduce(counts, group=group)
        sizes = counts.tolist()
    if len(sizes) != world or sizes[rank] != rows:
        want = f"{world} sizes with {rows} (the rows of weight) at rank {rank}"
        raise ValueError(f"shard_sizes: expected {want}, got {list(sizes)}")
    return VocabShard(sum(sizes[:rank]), rows, sum(sizes), group)


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
