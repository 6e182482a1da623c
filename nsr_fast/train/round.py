"""One round: prompts, rollouts, rewards, token weights, update, new weights in the engine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from transformers import PreTrainedModel

from nsr_fast.errors import GuardStop
from nsr_fast.objective import Objective
from nsr_fast.reward import Reward, Scoring
from nsr_fast.rollout.engine import Engine
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.packing import TrainSequence
from nsr_fast.train.step import UpdateMetrics, UpdateSettings, update_policy
from nsr_fast.types import Budget, Group, Prompt, Rollout, Sampling, sampling_seed

Rewards = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Learner:
    """The parts that a round works with."""

    policy: PreTrainedModel
    optimizer: PolicyOptimizer
    engine: Engine
    reward: Reward
    objective: Objective
    sampling: Sampling
    budget: Budget
    update: UpdateSettings
    drift_limit: float
    seed: int


@dataclass(frozen=True, slots=True)
class RoundResult:
    """`metrics` is the line of metrics.jsonl."""

    metrics: dict
    groups: list[Group]
    rewards: Rewards


def run_round(learner: Learner, round_index: int, prompts: Sequence[Prompt]) -> RoundResult:
    """Generate, score, update, sync. Raises GuardStop on drift, stale weights or a bad gradient.

    The engine gives its KV cache's memory to the update and takes it back afterwards.
    """
    clock = _PhaseClock()
    groups, scoring = generate_groups(learner, round_index, prompts)
    memory = dict(learner.engine.release_memory())
    clock.end("rollout")
    scoring.finish(groups)
    rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]
    clock.end("reward")
    sequences = trained_sequences(groups, rewards, learner.objective)
    update = None
    if sequences:
        update = update_policy(learner.policy, learner.optimizer, sequences, learner.update)
        check_update(
            update, round_index, None if learner.sampling.is_truncated else learner.drift_limit
        )
    clock.end("train")
    memory |= learner.engine.regain_memory()
    if sequences:
        learner.engine.weights_updated()
    clock.end("sync")
    metrics = {
        "round": round_index,
        **rollout_metrics(groups, rewards),
        **update_metrics(update, groups),
        **learner.reward.statistics(),
        "learning_rate": learner.optimizer.learning_rate,
        **memory,
        **clock.metrics(),
    }
    metrics["tokens_per_s"] = metrics["num_tokens"] / metrics["time/rollout"]
    return RoundResult(metrics, groups, rewards)


def generate_groups(
    learner: Learner, round_index: int, prompts: Sequence[Prompt]
) -> tuple[list[Group], Scoring]:
    """The groups in the order of the prompts, and the scoring that every rollout was added to.

    Each (round, prompt) has a seed of its own.
    """
    seeds = [
        sampling_seed(learner.seed, "train", round_index, index) for index in range(len(prompts))
    ]
    scoring = learner.reward.open()
    rollouts: list[dict[int, Rollout]] = [{} for _ in prompts]
    stream = learner.engine.generate(prompts, learner.sampling, seeds, learner.budget)
    for index, sample, rollout in stream:
        rollouts[index][sample] = rollout
        scoring.add(rollout)
    samples = range(learner.sampling.num_generations)
    groups = [
        Group(prompt, tuple(held[sample] for sample in samples))
        for prompt, held in zip(prompts, rollouts, strict=True)
    ]
    return groups, scoring


def trained_sequences(
    groups: Sequence[Group], rewards: Rewards, objective: Objective
) -> list[TrainSequence]:
    """The rollouts with a weight other than 0; the others never run through the model."""
    return [
        TrainSequence(group.prompt.token_ids, rollout.token_ids, weight, rollout.sampler_logprob)
        for group, group_rewards in zip(groups, rewards, strict=True)
        for rollout, reward in zip(group.rollouts, group_rewards, strict=True)
        if (weight := objective.sequence_weight(reward)) != 0 and rollout.token_ids
    ]


def check_update(update: UpdateMetrics, round_index: int, drift_limit: float | None) -> None:
    """Stop on a non-finite gradient (no weight was changed by it) or on a drifting engine.

    drift_limit   None: sampling was truncated, its logprobs are of another distribution
    """
    if not isfinite(update.grad_norm):
        raise GuardStop(
            f"round {round_index}: the gradient norm is {update.grad_norm}; that step was not "
            "taken. Lower learning_rate, or look at the rollouts of the round before"
        )
    if drift_limit is not None and not update.drift_mean <= drift_limit:
        raise GuardStop(
            f"round {round_index}: trainer and engine disagree by {update.drift_mean:.2e} nats a "
            f"token on average (limit {drift_limit:.0e}): the engine does not run the trainer's "
            "weights, or precision differs too much (raise drift_limit if that is intended)"
        )


def rollout_metrics(groups: Sequence[Group], rewards: Rewards) -> dict[str, float]:
    """Rewards, lengths and entropy over all rollouts of a round."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    num_tokens = sum(lengths)
    scored = [r > 0 for group in rewards for r in group if r is not None]
    solved = [[r is not None and r > 0 for r in group] for group in rewards]
    return {
        "reward": sum(scored) / len(scored) if scored else None,  # share of correct rollouts
        "frac_all_correct": sum(map(all, solved)) / len(solved),
        "frac_all_wrong": sum(not any(group) for group in solved) / len(solved),
        "num_unscored": len(rollouts) - len(scored),
        "entropy": -sum(sum(r.sampler_logprob) for r in rollouts) / max(1, num_tokens),
        "completion_length_mean": num_tokens / len(lengths),
        "completion_length_min": min(lengths),
        "completion_length_max": max(lengths),
        "clipped_ratio": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "num_cut": sum(r.finish_reason == "cut" for r in rollouts),
        "num_tokens": num_tokens,
    }


def update_metrics(update: UpdateMetrics | None, groups: Sequence[Group]) -> dict:
    """The update's numbers; None where nothing was trained on."""
    num_tokens = sum(len(r.token_ids) for group in groups for r in group.rollouts)
    names = ("loss", "grad_norm", "entropy_trained", "drift_mean", "drift_max")
    return {
        **{name: getattr(update, name, None) for name in names},
        "optimizer_steps": update.steps if update else 0,
        "trained_tokens": update.trained_tokens if update else 0,
        "trained_fraction": (update.trained_tokens if update else 0) / max(1, num_tokens),
    }


class _PhaseClock:
    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._phases: dict[str, float] = {}

    def end(self, phase: str) -> None:
        now = time.perf_counter()
        self._phases[f"time/{phase}"] = now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        return {**self._phases, "round_time": self._last - self._start}
