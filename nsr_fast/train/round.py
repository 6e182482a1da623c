"""One round: prompts, rollouts with rewards, weights, update, new weights in the engine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from nsr_fast.config import Config
from nsr_fast.model.batch import minibatches_of
from nsr_fast.model.load import Policy
from nsr_fast.objective import Objective
from nsr_fast.reward.reward import Reward
from nsr_fast.rollout.collect import collect
from nsr_fast.rollout.engine import Engine
from nsr_fast.train.guards import check_update, drift_limit
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import UpdateMetrics, update_policy
from nsr_fast.types import Group, Prompt, sampling_seed


@dataclass(frozen=True, slots=True)
class Learner:
    """The parts that a round works with."""

    config: Config
    policy: Policy
    engine: Engine
    reward: Reward
    objective: Objective
    optimizer: PolicyOptimizer
    vocab: int | None = None  # valid rows of the head; None: all


def run_round(
    learner: Learner, round_index: int, prompts: Sequence[Prompt]
) -> tuple[list[Group], dict]:
    """Sample, score, weigh, update, sync; returns the groups and the line of metrics.jsonl.

    Raises GuardStop on drift, stale weights or a bad gradient. The engine gives its KV cache's
    memory to the update and takes it back afterwards.
    """
    config, engine, objective = learner.config, learner.engine, learner.objective
    clock, memory = _PhaseClock(), {}

    def on_sampled() -> None:
        memory.update(engine.release_memory())
        clock.end("rollout")

    groups = collect(
        engine,
        learner.reward.open(),
        prompts,
        config.sampling.sampling,
        [sampling_seed(config.run.seed, "train", round_index, i) for i in range(len(prompts))],
        config.round.budget,
        on_sampled=on_sampled,
    )
    clock.end("reward")
    objective.weigh(groups)
    update = _update(learner, groups)
    if update:
        check_update(update, round_index, drift_limit(config, learner.policy.dtype))
    clock.end("train")
    memory |= engine.regain_memory()
    if update:
        engine.weights_updated()
    clock.end("sync")
    metrics = {
        "round": round_index,
        **rollout_metrics(groups),
        **update_metrics(update, groups),
        **learner.reward.statistics(),
        "learning_rate": learner.optimizer.learning_rate,
        **memory,
        **clock.metrics(),
    }
    metrics["tokens_per_s"] = metrics["num_tokens"] / metrics["time/rollout"]
    return groups, metrics


def _update(learner: Learner, groups: Sequence[Group]) -> UpdateMetrics | None:
    """The round's optimizer steps on the rollouts with a weight; None where no rollout has one."""
    rollouts = [r for group in groups for r in group.rollouts if r.weight != 0]
    if not rollouts:
        return None
    config, policy, objective = learner.config, learner.policy, learner.objective
    minibatches = minibatches_of(
        rollouts, objective.minibatches, config.round.micro_batch_tokens, policy.device
    )
    temperature = config.sampling.temperature
    return update_policy(
        policy, learner.optimizer, minibatches, objective, temperature, learner.vocab
    )


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths and entropy over all rollouts of a round."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    num_tokens = sum(lengths)
    scored = [r.is_correct for r in rollouts if r.is_correct is not None]
    solved = [[r.is_correct is True for r in group.rollouts] for group in groups]
    return {
        "reward": sum(scored) / len(scored) if scored else None,
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
    names = ("loss", "grad_norm", "entropy_trained", "drift_mean", "drift_max", "clip_fraction")
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
