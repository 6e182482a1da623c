"""Sample and score: the engine generates while the reward's workers judge what has finished."""

from collections.abc import Callable, Sequence
from math import isfinite

from nsr_fast.errors import GuardStop
from nsr_fast.reward.reward import Scoring
from nsr_fast.rollout.engine import Engine
from nsr_fast.types import Budget, Group, Prompt, Rollout, Sampling

_WAIT_FOR_ALL = Budget()


def collect(
    engine: Engine,
    scoring: Scoring,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seeds: Sequence[int],
    budget: Budget = _WAIT_FOR_ALL,
    *,
    on_sampled: Callable[[], None] = lambda: None,
    where: str = "evaluation",
) -> list[Group]:
    """The groups in the order of the prompts, every rollout with the engine's and reward's fields.

    scoring      of this call alone: reward.open()
    seeds        one a prompt; sample j of prompt i draws its noise from seeds[i] + j
    on_sampled   called when the last rollout is there and only rewards are waited for
    where        what is sampled, for messages
    Raises GuardStop for a logprob that is no finite number, also in a rollout that nothing trains
    """
    held: list[dict[int, Rollout]] = [{} for _ in prompts]
    for index, sample, rollout in engine.generate(prompts, sampling, seeds, budget):
        _check_logprobs(rollout, where)
        held[index][sample] = rollout
        scoring.add(rollout)
    on_sampled()
    samples = range(sampling.num_generations)
    groups = [
        Group(prompt, tuple(rollouts[sample] for sample in samples))
        for prompt, rollouts in zip(prompts, held, strict=True)
    ]
    scoring.finish(groups)
    return groups


def _check_logprobs(rollout: Rollout, where: str) -> None:
    bad = [value for value in rollout.sampler_logprob if not isfinite(value)]
    if bad:
        raise GuardStop(
            f"{where}: prompt {rollout.prompt.id!r}: the engine gave {len(bad)} of "
            f"{len(rollout.sampler_logprob)} logprobs as {bad[0]}: the model computes no finite "
            "numbers there. Lower learning_rate, or try dtype: float32"
        )
