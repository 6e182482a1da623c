"""Token-local losses on [C] vectors: the one place where their mathematics lives.

A surrogate is any callable TokenRows -> TokenTerms; it sees one chunk of active rows after their
logits are complete and returns each row's loss, c = dloss/dlogprob and, when not zero,
e = dloss/dentropy. With w = token_weight and r = exp(logprob - old_logprob):

    None              -w logprob                          REINFORCE, PSR, NSR, W-REINFORCE
    PolicyGradient()  the same, open to the corrections below
    PpoClip()         -min(w r, w clip(r, 1 - epsilon, 1 + epsilon_high)); a clipped row gets c = 0;
                      dual_clip bounds the loss of w < 0 by -w dual_clip. Reads old_logprob
    Cispo()           -w clip(r, ...) logprob, the clipped ratio held constant. Reads old_logprob
    and in each       sampler_cap: times min(exp(policy - sampler), sampler_cap), held constant;
                      policy = old_logprob, or logprob without one. Reads sampler_logprob
                      kl="k1"|"k2"|"k3", kl_coef: plus kl_coef times it. Reads ref_logprob

    linear_policy_loss(hidden, weight, target, w, old_logprob=old,
                       surrogate=PpoClip(epsilon=0.2, epsilon_high=0.28))

kl_coef, and entropy_coef of linear_policy_loss, count per active row and are not scaled by w:
divide them by the batch's denominator as w is. Rows of weight 0 are dropped before any of this.
Sources: PPO 1707.06347, dual clip 1912.09729, clip-higher 2503.14476, CISPO 2506.13585, KL
estimators joschu.net/blog/kl-approx.html.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenRows:
    """One chunk of active rows, all [C] float32; the last three are None when not given."""

    logprob: Tensor
    entropy: Tensor
    token_weight: Tensor
    old_logprob: Tensor | None = None
    sampler_logprob: Tensor | None = None
    ref_logprob: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a surrogate returns, all [C]: loss, c, e (None: zeros), rows whose ratio was clipped."""

    loss: Tensor
    c: Tensor
    e: Tensor | None = None
    is_clipped: Tensor | None = None


SurrogateFn = Callable[[TokenRows], TokenTerms]

_CLASSES: dict[str, type["Surrogate"]] = {}
_FUNCTIONS: dict[str, SurrogateFn] = {}


def register_surrogate(function: SurrogateFn) -> SurrogateFn:
    """Decorator that gives a surrogate function a name, which torch.compile needs.

    Without it a function works in eager mode. A subclass of Surrogate is registered by itself.
    """
    function.surrogate_name = f"{function.__module__}.{function.__qualname__}"
    _FUNCTIONS[function.surrogate_name] = function
    return function


def surrogate_key(surrogate: SurrogateFn | None) -> tuple[str, list[float]]:
    """The name and numbers under which find_surrogate gives `surrogate` back."""
    if surrogate is None:
        return "", []
    if isinstance(surrogate, Surrogate):
        return type(surrogate).__name__, surrogate.numbers()
    name = getattr(surrogate, "surrogate_name", None)
    if name is None:
        name = "last unregistered function"
        _FUNCTIONS[name] = surrogate
    return name, []


def find_surrogate(name: str, numbers: Sequence[float]) -> SurrogateFn | None:
    """The surrogate behind a key; ValueError when nothing carries that name."""
    if name == "":
        return None
    if name in _CLASSES:
        return _CLASSES[name].from_numbers(numbers)
    if name not in _FUNCTIONS:
        raise ValueError(f"surrogate: nothing is registered as {name!r}; see register_surrogate")
    return _FUNCTIONS[name]


def check_terms(terms: TokenTerms, token_weight: Tensor) -> None:
    """What a user's surrogate returned: TokenTerms of vectors like token_weight."""
    if not isinstance(terms, TokenTerms):
        raise ValueError(f"surrogate: expected TokenTerms, got {type(terms).__name__}")
    for name in ("loss", "c", "e"):
        x = getattr(terms, name)
        if x is None and name == "e":
            continue
        is_vector = isinstance(x, Tensor) and x.shape == token_weight.shape
        if not is_vector or x.dtype != token_weight.dtype:
            got = f"{list(x.shape)} {x.dtype}" if isinstance(x, Tensor) else repr(x)
            want = f"{list(token_weight.shape)} {token_weight.dtype}"
            raise ValueError(f"surrogate: expected {name} as {want}, got {got}")


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Base of the built-in ones: the policy term of a subclass, sampler correction, KL penalty."""

    sampler_cap: float | None = None
    kl: str = "k3"
    kl_coef: float = 0.0

    needs_old = False

    def __init_subclass__(cls) -> None:
        _CLASSES[cls.__name__] = cls

    def __post_init__(self) -> None:
        if self.kl not in ("k1", "k2", "k3"):
            raise ValueError(f"kl: expected 'k1', 'k2' or 'k3', got {self.kl!r}")
        for name in ("epsilon", "sampler_cap", "kl_coef"):
            value = getattr(self, name, None)
            if value is not None and not 0.0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a number >= 0, got {value!r}")

    def required(self) -> list[str]:
        """Names of the side inputs this surrogate reads."""
        names = ["old_logprob"] if self.needs_old else []
        names += ["sampler_logprob"] if self.sampler_cap is not None else []
        return names + (["ref_logprob"] if self.kl_coef != 0.0 else [])

    def numbers(self) -> list[float]:
        """The fields as floats (NaN for None), the form in which an operator carries them."""
        values = [getattr(self, field.name) for field in fields(self)]
        values = [_KL_NAMES.index(v) if isinstance(v, str) else v for v in values]
        return [float("nan") if v is None else float(v) for v in values]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> "Surrogate":
        """Inverse of numbers()."""
        values = {}
        for field, number in zip(fields(cls), numbers, strict=True):
            value = None if number != number else number
            values[field.name] = _KL_NAMES[int(number)] if field.name == "kl" else value
        return cls(**values)

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        raise NotImplementedError(f"{type(self).__name__}.policy_term")

    def __call__(self, rows: TokenRows) -> TokenTerms:
        term = self.policy_term(rows)
        loss, c = term.loss, term.c
        if self.sampler_cap is not None:
            policy = rows.logprob if rows.old_logprob is None else rows.old_logprob
            trust = (policy - rows.sampler_logprob).exp().clamp(max=self.sampler_cap)
            loss, c = loss * trust, c * trust
        if self.kl_coef != 0.0:
            gap = rows.logprob - rows.ref_logprob
            value, slope = _KL[self.kl](gap)
            loss, c = loss + self.kl_coef * value, c + self.kl_coef * slope
        return TokenTerms(loss, c, term.e, term.is_clipped)


@dataclass(frozen=True)
class PolicyGradient(Surrogate):
    """-w logprob."""

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        return TokenTerms(-rows.token_weight * rows.logprob, -rows.token_weight)


@dataclass(frozen=True)
class PpoClip(Surrogate):
    """-min(w r, w clip(r, 1 - epsilon, 1 + epsilon_high)); dual_clip > 1 caps r where w < 0."""

    epsilon: float = 0.2
    epsilon_high: float | None = None
    dual_clip: float | None = None

    needs_old = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None and not self.dual_clip > 1.0:
            raise ValueError(f"dual_clip: expected a number > 1, got {self.dual_clip!r}")

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w = rows.token_weight
        ratio = (rows.logprob - rows.old_logprob).exp()
        low, high = _bounds(self.epsilon, self.epsilon_high)
        silent_when_raised = (w > 0) & (ratio > high)
        silent_when_lowered = (w < 0) & (ratio < low)
        is_clipped = silent_when_raised | silent_when_lowered
        bounded = torch.where(is_clipped, ratio.clamp(low, high), ratio)
        if self.dual_clip is not None:
            is_far = (w < 0) & (ratio > self.dual_clip)
            bounded = torch.where(is_far, self.dual_clip, bounded)
            is_clipped = is_clipped | is_far
        c = torch.where(is_clipped, 0.0, -w * bounded)
        return TokenTerms(-w * bounded, c, is_clipped=is_clipped)


@dataclass(frozen=True)
class Cispo(Surrogate):
    """-w clip(r, 1 - epsilon, 1 + epsilon_high) logprob: the ratio is a constant weight."""

    epsilon: float = 0.2
    epsilon_high: float | None = None

    needs_old = True

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        ratio = (rows.logprob - rows.old_logprob).exp()
        low, high = _bounds(self.epsilon, self.epsilon_high)
        c = -rows.token_weight * ratio.clamp(low, high)
        is_clipped = (ratio < low) | (ratio > high)
        return TokenTerms(c * rows.logprob, c, is_clipped=is_clipped)


def _bounds(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    return 1.0 - epsilon, 1.0 + (epsilon if epsilon_high is None else epsilon_high)


def _k1(gap: Tensor) -> tuple[Tensor, Tensor]:
    return gap, torch.ones_like(gap)


def _k2(gap: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * gap * gap, gap


def _k3(gap: Tensor) -> tuple[Tensor, Tensor]:
    return torch.expm1(-gap) + gap, -torch.expm1(-gap)


_KL = {"k1": _k1, "k2": _k2, "k3": _k3}
_KL_NAMES = list(_KL)
