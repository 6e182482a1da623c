"""The form of a token-local loss: TokenRows of a chunk in, TokenTerms out.

The built-in ones are in nsr_fast/objective/; kernels/head_loop.py calls them between a chunk's
statistics and its gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """One chunk of active rows, all [C] float32; from old_logprob on None when not given.

    token_weight     signed, what the loss multiplies; divided by the batch's denominator already
    old_logprob, sampler_logprob, ref_logprob   of the target: before the round's first step, as it
                     was sampled, under the reference policy
    entropy_share    f of a weight w (1 - f + f H): how far the token's entropy H scales the weight
    sequence_ratio   a ratio of the whole sequence, on each of its tokens, held constant
    factor           >= 0, multiplies the weight, held constant: masks that need the whole minibatch
    mark             1 where a term that is for chosen tokens applies, else 0
    scale            what one token counts in the mean over the batch: multiplies terms that the
                     weight does not (KL, entropy bonus); None: 1
    """

    logprob: Tensor
    entropy: Tensor
    token_weight: Tensor
    old_logprob: Tensor | None = None
    sampler_logprob: Tensor | None = None
    ref_logprob: Tensor | None = None
    entropy_share: Tensor | None = None
    sequence_ratio: Tensor | None = None
    factor: Tensor | None = None
    mark: Tensor | None = None
    scale: Tensor | None = None


# The side inputs: what a loss may read of a token beside its logits row and its weight.
SIDES = tuple(field.name for field in fields(TokenRows))[3:]


@dataclass(frozen=True, slots=True, eq=False)
class TokenTerms:
    """What TermsFn returns, all [C]: loss, c, e (None: zeros), rows whose ratio was clipped."""

    loss: Tensor
    c: Tensor
    e: Tensor | None = None
    is_clipped: Tensor | None = None

    def check(self, token_weight: Tensor) -> None:
        for name in ("loss", "c", "e"):
            x = getattr(self, name)
            if x is None and name == "e":
                continue
            is_vector = isinstance(x, Tensor) and x.shape == token_weight.shape
            if not is_vector or x.dtype != token_weight.dtype:
                got = f"{list(x.shape)} {x.dtype}" if isinstance(x, Tensor) else repr(x)
                want = f"{list(token_weight.shape)} {token_weight.dtype}"
                raise ValueError(f"surrogate: expected {name} as {want}, got {got}")


# One that reads side inputs may name them in an attribute `needs`, a tuple of names in SIDES.
TermsFn = Callable[[TokenRows], TokenTerms]
