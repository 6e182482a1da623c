"""Truncated sampling and ratios together: logprobs renormalised on the sampler's kept set.

With top_k or top_p a sampler draws from softmax(u) restricted to a kept set K and renormalised, so
its logprob is u_y - logsumexp over K, which exceeds that of the full softmax. A ratio of the two is
wrong by the mass outside K, at every token. Here old and new logprobs are taken on one and the same
set: a pass before the update finds it (truncated_logprobs) and every later pass masks its logits to
it (KeptSets.mask_ as TokenInputs.mask_logits), as DeepSeek-V3.2's "keep sampling mask" does.

The kept set, as vLLM defines it (v1/sample/ops/topk_topp_sampler.py), u = logits / temperature:
    top_k   the tokens with u >= the k-th largest; ties at the k-th all stay
    top_p   of softmax over those, by descending p: a token stays while the mass before it is
            < top_p; the first always stays
Ties at the edge of top_p all stay here. vLLM's sort drops some of them, which ones is undefined;
its Triton and FlashInfer kernels also keep exactly k, and no less than the tie, respectively. So a
set here holds every token that any of them could have drawn, and at most the rest of one tie more.
The sampled token is always put into its set: it was drawn, so a rounding that says otherwise at
the edge is ours, and a ratio must stay finite.

Plain torch, a reference: one tile of logits at a time and its mask; top_p without top_k sorts the
tile. Masses are summed in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels.head import Head, check_range, check_rows
from nsr_fast.kernels.head_loop import chunks


@dataclass(frozen=True, slots=True)
class Truncation:
    """top_k 0 and top_p 1 are off, as in types.Sampling."""

    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"top_k: expected an integer >= 0, got {self.top_k!r}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p: expected a number in (0, 1], got {self.top_p!r}")

    def kept(self, u: Tensor, target: Tensor) -> Tensor:
        """[C, V] bool: the kept set of each row of u [C, V], with target [C] in it."""
        is_kept = torch.ones_like(u, dtype=torch.bool)
        best = None
        if 0 < self.top_k < u.shape[1]:
            best = u.topk(self.top_k, dim=1).values
            is_kept = u >= best[:, -1:]
        if self.top_p < 1.0:
            best = u.sort(dim=1, descending=True).values if best is None else best
            is_kept &= u >= self._least(u, is_kept, best)
        return is_kept.scatter_(1, target[:, None], True)

    def _least(self, u: Tensor, is_kept: Tensor, best: Tensor) -> Tensor:
        """[C, 1] the smallest u within top_p; `best` holds the kept ones first, in order."""
        lse = u.double().masked_fill(~is_kept, -torch.inf).logsumexp(dim=1, keepdim=True)
        p = (best.double() - lse).exp()
        count = (p.cumsum(dim=1) - p < self.top_p).sum(dim=1, keepdim=True)
        return best.gather(1, count.clamp(min=1) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class KeptSets:
    """The kept set of each of T tokens.

    columns  [sum of counts] int32, the kept tokens of row 0, then of row 1, ...
    counts   [T] int64
    """

    columns: Tensor
    counts: Tensor

    def mask_(self, rows: Tensor | slice, logits: Tensor) -> None:
        """Set logits [C, v] of the rows at these places to -inf outside their sets.

        Waits for the GPU.
        """
        counts = self.counts[rows]
        ends = self.counts.cumsum(0)[rows]
        row = torch.repeat_interleave(torch.arange(len(counts), device=logits.device), counts)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(row), device=logits.device) - first[row]
        column = self.columns[(ends - counts)[row] + place]
        is_out = torch.ones_like(logits, dtype=torch.bool)
        is_out[row, column.long()] = False
        logits.masked_fill_(is_out, -torch.inf)

    def split(self, lengths: list[int]) -> list["KeptSets"]:
        """The sets of consecutive sequences of these lengths."""
        counts = self.counts.split(lengths)
        columns = self.columns.split([int(x.sum()) for x in counts])
        return [KeptSets(*pair) for pair in zip(columns, counts)]

    @staticmethod
    def cat(sets: "list[KeptSets]") -> "KeptSets":
        """Of packed sequences, in this order."""
        return KeptSets(torch.cat([x.columns for x in sets]), torch.cat([x.counts for x in sets]))


@dataclass(frozen=True, slots=True, eq=False)
class TruncatedLogprobs:
    """logprob, entropy [T] of the renormalised distribution in float32, and the sets of it."""

    logprob: Tensor
    entropy: Tensor
    sets: KeptSets


@torch.no_grad()
def truncated_logprobs(
    head: Head,
    hidden: Tensor,
    target: Tensor,
    truncation: Truncation,
    sets: KeptSets | None = None,
) -> TruncatedLogprobs:
    """Logprob and entropy of each target on its kept set, without [T, V] logits.

    head     with the sampling's temperature; no softcap, not sharded. logits_dtype float32 keeps
             bfloat16 logits from being rounded, which would move edges and make ties
    hidden   [T, D]
    target   [T]     int64
    sets     None: found from these logits by `truncation`; given: those of an earlier pass, and
             truncation is not looked at
    Memory   one tile, its mask and its values in order; the sets, 4 bytes a kept token
    Raises   ValueError on shape, range, a softcap or a sharded head
    """
    check_rows(hidden, target)
    head.check_hidden(hidden)
    check_range(target, head.classes)
    if head.softcap is not None or head.shard is not None:
        raise ValueError("head: expected no softcap and no shard for truncated sampling")
    logprob = hidden.new_zeros(len(target), dtype=head.dtype)
    entropy, counts, columns = torch.zeros_like(logprob), torch.zeros_like(target), []
    for chunk in chunks(head, hidden, target, None):
        if sets is None:
            u = chunk.logits.to(head.dtype) / head.temperature
            is_kept = truncation.kept(u, chunk.target)
            columns.append(is_kept.nonzero()[:, 1].to(torch.int32))
            counts[chunk.rows] = is_kept.sum(dim=1)
            chunk.logits.masked_fill_(~is_kept, -torch.inf)
        else:
            sets.mask_(chunk.rows, chunk.logits)
        stats = head.row_pass_(chunk.logits, chunk.target)
        logprob[chunk.rows], entropy[chunk.rows] = stats.logprob, stats.entropy
    if sets is None:
        found = torch.cat(columns) if columns else target.new_zeros(0, dtype=torch.int32)
        sets = KeptSets(found, counts)
    return TruncatedLogprobs(logprob, entropy, sets)
