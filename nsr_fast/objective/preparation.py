"""Side inputs that need whole sequences or the whole minibatch: the contract.

A preparation is a callable Sequences -> {side input: one tensor [T_i] a sequence}. Everything is
per sequence, so the result does not depend on how a minibatch is packed. Nothing is differentiable:
what a preparation gives is a constant of the step.

    per optimizer step, before its gradient passes:
        rows = Sequences(weight, logprob=..., entropy=..., old_logprob=..., sampler_logprob=...)
        sides = prepare(preparations, rows)
        TokenInputs(..., **{name: of this pack for name in sides})

logprob and entropy are those of the policy at this step: on the first minibatch of a round logprob
is old_logprob and costs no pass; later ones need a forward pass first.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nsr_fast.kernels.tokens import SIDES

Tensors = Sequence[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """A minibatch by sequence: every field one tensor [T_i] a sequence, None where not computed.

    weight           signed, not divided by any denominator; a token of weight 0 counts in no
                     statistic
    logprob, entropy of the policy at this step
    old_logprob, sampler_logprob   as in TokenRows
    entropy_share    as in TokenRows
    generator        for preparations that draw; None: torch's own
    """

    weight: Tensors
    logprob: Tensors | None = None
    entropy: Tensors | None = None
    old_logprob: Tensors | None = None
    sampler_logprob: Tensors | None = None
    entropy_share: Tensors | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        want = [len(x) for x in self.weight]
        for name in FIELDS[1:]:
            values = getattr(self, name)
            if values is None:
                continue
            if (got := [len(x) for x in values]) != want:
                raise ValueError(f"{name}: expected sequences of {want} tokens, got {got}")

    @property
    def policy(self) -> Tensors:
        """old_logprob, or logprob without one: what stands against the sampler's."""
        return self.logprob if self.old_logprob is None else self.old_logprob

    def flat(self, name: str) -> Tensor:
        """A field of all sequences as one tensor."""
        return torch.cat(list(getattr(self, name)))

    def split(self, flat: Tensor) -> list[Tensor]:
        """What flat puts together, apart again."""
        return list(flat.split([len(x) for x in self.weight]))


FIELDS = ("weight", "logprob", "entropy", "old_logprob", "sampler_logprob", "entropy_share")


class Preparation(Protocol):
    """Makes side inputs of a minibatch."""

    @property
    def needs(self) -> Iterable[str]:
        """Names of the fields of Sequences it reads, beside weight; "policy": old or logprob."""

    def __call__(self, rows: Sequences) -> dict[str, list[Tensor]]:
        """Side inputs by their names in SIDES."""


def prepare(
    preparations: Iterable[Callable[[Sequences], dict[str, list[Tensor]]]], rows: Sequences
) -> dict[str, list[Tensor]]:
    """All side inputs of the preparations; factors of several are multiplied.

    Raises ValueError where a field that one reads is missing, or two make the same side input
    """
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for preparation in preparations:
            for name in getattr(preparation, "needs", ()):
                if getattr(rows, name) is None:
                    got = f"got None; {preparation!r} reads it"
                    raise ValueError(f"{name}: expected one tensor a sequence, {got}")
            for name, values in preparation(rows).items():
                if name not in SIDES:
                    known = ", ".join(SIDES)
                    raise ValueError(f"{preparation!r}: expected names of {known}, got {name!r}")
                if name == "factor" and name in found:
                    values = [a * b for a, b in zip(found[name], values, strict=True)]
                elif name in found:
                    raise ValueError(f"{name}: made by two preparations, {preparation!r} is one")
                found[name] = values
    return found


def fold_factor(
    weight: Tensors, sides: dict[str, list[Tensor]]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """weight times the side input factor, and the sides without it: what it zeroes is never run.

    The same gradient as with the side input, save that a zeroed row loses KL and entropy bonus.
    """
    rest = {name: values for name, values in sides.items() if name != "factor"}
    factors = sides.get("factor")
    if factors is None:
        return list(weight), rest
    return [w * factor.to(w) for w, factor in zip(weight, factors, strict=True)], rest


def kept_lengths(weight: Tensors) -> list[int]:
    """Trained tokens of each sequence, for a denominator that leaves out what was zeroed."""
    return [int((w != 0).sum()) for w in weight]
