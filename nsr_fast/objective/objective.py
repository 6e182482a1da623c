"""Objectives as two sign weights (arXiv 2506.01347, equations 1-4 and 9) and what goes with them.

The weight of a rollout times the advantage-free policy gradient is the whole method; the rest of an
objective says which token terms, which denominator and how many optimizer steps a round goes with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from nsr_fast.config_groups import ObjectiveKeys
from nsr_fast.config_objectives import SIGNS
from nsr_fast.errors import InputError
from nsr_fast.kernels.tokens import TermsFn
from nsr_fast.objective.denominator import constant, sequence_mean, token_mean
from nsr_fast.objective.presets import PRESETS
from nsr_fast.objective.terms import SURROGATES, PolicyGradient
from nsr_fast.objective.weights import Now, SignWeights, WeightRule
from nsr_fast.types import Group


@dataclass(frozen=True, slots=True)
class Objective:
    """Token weight of a correct and of a wrong rollout.

        loss = -(1/N) sum_t w_t r_t      r_t = exp(logprob_t - old_logprob_t), w_t = rollout.weight

        name              correct   wrong
        PSR               +1        0 (dropped)
        NSR               0         -1
        W-REINFORCE(l)    +l        -1       l = 0.1 in the paper
        REINFORCE         +1        -1

    Gradient with respect to the logits, p = softmax(z):

        dL/dz_v = -(1/N) w_t r_t (1[v = y_t] - p_v)

    Traps, all of them in the paper's reference code:
    * The paper's equations 6-8 differentiate the probability and carry one more factor p_y; the
      code (and this project) differentiates the ratio, so no factor damps unlikely tokens.
    * Rows of weight 0 are dropped before minibatches are cut: PSR and NSR take fewer updates on a
      round than W-REINFORCE, and N counts only kept tokens.
    * N: the paper's text averages over each response's tokens, the code over the tokens of a
      micro-batch weighted by rows. Here N is the number of kept tokens of the whole minibatch;
      `denominator` names others (objective/denominator.py).
    * Clipping max(-w r, -w clip(r, 0.8, 1.2)) is one-sided: with w < 0 the gradient stops at
      r < 0.8 and grows without limit for r > 1.2. With one update per round r = 1: no clipping.
    * The advantages of a group are never whitened: that would make a constant weight 0.

    positive_weight   >= 0
    negative_weight   <= 0
    minibatches       optimizer steps a round; with more than one the ratio is clipped (PPO)
    epsilon, epsilon_high     the clip range [1 - epsilon, 1 + epsilon_high]; None: epsilon
    importance_sampling_cap   each token times min(policy / sampler, cap), held constant
    entropy_coef      bonus of each trained token, divided by N as the weight is
    denominator       token_mean, sequence_mean or constant, which reads max_completion_length
    rule              writes the weights in place of the two signs: presets.py
    surrogate         name of the term of several minibatches: terms.py
    Raises ValueError on a sign or a value that is not finite.
    """

    positive_weight: float
    negative_weight: float
    minibatches: int = 1
    epsilon: float = 0.2
    epsilon_high: float | None = None
    importance_sampling_cap: float | None = None
    entropy_coef: float = 0.0
    denominator: str = "token_mean"
    max_completion_length: int = 0
    rule: WeightRule | None = None
    surrogate: str = "ppo_clip"

    def __post_init__(self) -> None:
        if not (isfinite(self.positive_weight) and self.positive_weight >= 0):
            raise ValueError(
                f"positive_weight: expected a finite number >= 0, got {self.positive_weight}"
            )
        if not (isfinite(self.negative_weight) and self.negative_weight <= 0):
            raise ValueError(
                f"negative_weight: expected a finite number <= 0, got {self.negative_weight}; "
                "wrong rollouts are pushed down, so write it with a minus sign"
            )

    @classmethod
    def psr(cls, **options) -> "Objective":
        """Positive sample reinforcement: learn from correct rollouts only."""
        return cls(1.0, 0.0, **options)

    @classmethod
    def nsr(cls, **options) -> "Objective":
        """Negative sample reinforcement: learn from wrong rollouts only."""
        return cls(0.0, -1.0, **options)

    @classmethod
    def w_reinforce(cls, positive_weight: float = 0.1, **options) -> "Objective":
        """Weighted REINFORCE; 0 is NSR, 1 is REINFORCE (equation 9 calls the weight lambda)."""
        return cls(positive_weight, -1.0, **options)

    @classmethod
    def reinforce(cls, **options) -> "Objective":
        """Both signs at full weight."""
        return cls(1.0, -1.0, **options)

    @property
    def needs(self) -> frozenset[str]:
        """What the step computes before it: "old", the logprobs before the round's first step."""
        has_ratio = self.minibatches > 1 and self.surrogate != "policy_gradient"
        return frozenset({"old"}) if has_ratio else frozenset()

    def weigh(self, groups: Sequence[Group], now: Now = Now()) -> None:  # noqa: B008 (frozen)
        """Write every rollout's weight; 0: it never runs through the model."""
        rule = self.rule or SignWeights(self.positive_weight, self.negative_weight)
        rule(groups, now)

    def scales(self, lengths: Sequence[int]) -> list[float]:
        """What a token of each response counts, by the trained tokens of all of a minibatch."""
        if self.denominator == "constant":
            return constant(lengths, self.max_completion_length)
        return {"token_mean": token_mean, "sequence_mean": sequence_mean}[self.denominator](lengths)

    @property
    def terms(self) -> TermsFn | None:
        """TokenRows -> TokenTerms; None: -w logprob, which the fused row pass computes itself. The
        entropy bonus is here where responses count differently: it reads TokenRows.scale."""
        numbers: dict[str, float | None] = {"sampler_cap": self.importance_sampling_cap}
        if self.denominator != "token_mean":
            numbers["entropy_coef"] = self.entropy_coef
        if "old" in self.needs:
            numbers |= {"epsilon": self.epsilon, "epsilon_high": self.epsilon_high}
            return SURROGATES[self.surrogate](**numbers)
        return PolicyGradient(**numbers) if any(numbers.values()) else None


def objective_of(keys: ObjectiveKeys, max_completion_length: int = 0) -> Objective:
    """The preset that the settings name, with their numbers. Raises InputError for one that its
    weight rule does not have."""
    name, given = keys.objective, keys.objective_kwargs or {}
    numbers = keys.model_dump(exclude={"objective", "objective_kwargs", "psr_weight"})
    numbers["max_completion_length"] = max_completion_length
    if name in SIGNS:
        weight = [keys.psr_weight] if name == "w_reinforce" else []
        return getattr(Objective, name)(*weight, **numbers)
    preset = PRESETS[name]
    try:
        rule = preset.weights(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"objective_kwargs: {name}: {error}; got {given}") from None
    surrogate = preset.surrogate or "policy_gradient"
    return Objective(0.0, 0.0, rule=rule, surrogate=surrogate, **numbers)
