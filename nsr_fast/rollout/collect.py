"""Sample and score: the engine generates while the reward's workers judge what has finished."""

from collections.abc import Callable, Sequence

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
) -> list[Group]:
    """The groups in the order of the prompts, every rollout with the engine's and reward's fields.

    scoring      of this call alone: reward.open()
    seeds        one a prompt; sample j of prompt i draws its noise from seeds[i] + j
    on_sampled   called when the last rollout is there and only rewards are waited for
    """
    held: list[dict[int, Rollout]] = [{} for _ in prompts]
    for index, sample, rollout in engine.generate(prompts, sampling, seeds, budget):
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
