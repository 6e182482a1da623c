"""One round: prompts, rollouts with rewards, weights, update, new weights in the engine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nsr_fast.config import Config
from nsr_fast.errors import EngineFailure, GuardStop
from nsr_fast.memory.measure import peak_bytes, reset_peak
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.memory.plan import MemoryPlan
from nsr_fast.model.batch import minibatches_of
from nsr_fast.model.load import Policy, logits_dtype
from nsr_fast.objective import Objective
from nsr_fast.reward.reward import Reward
from nsr_fast.reward.round_log import TrainerState
from nsr_fast.rollout.collect import collect
from nsr_fast.rollout.engine import Engine
from nsr_fast.train.guards import check_update, drift_limit
from nsr_fast.train.judged import Judged
from nsr_fast.train.numbers import (
    of_this_round,
    part_means,
    rollout_metrics,
    update_metrics,
    verdict_shares,
)
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.passes import PassBudget
from nsr_fast.train.step import UpdateMetrics, update_policy
from nsr_fast.train.stop import Stop
from nsr_fast.train.suspects import Suspects
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
    plan: MemoryPlan
    passes: PassBudget
    judged: Judged = field(default_factory=Judged)
    suspects: Suspects = field(default_factory=Suspects)
    vocab: int | None = None  # valid rows of the head; None: all
    activations: ActivationOffload | None = None  # None: they stay on the device
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round leaves: rollouts, the line of metrics.jsonl, lines for the user."""

    groups: list[Group]
    metrics: dict
    notes: list[str]
    failure: Exception | None = None  # to be raised once this round is logged and saved


def run_round(learner: Learner, round_index: int, prompts: Sequence[Prompt]) -> RoundResult:
    """Sample, score, weigh, update, sync.

    Raises what ends the run before a weight has changed (GuardStop: nothing judged, a bad gradient,
    drift); what ends it after that is the result's `failure`. learner.stop is held from the first
    step on, until the caller has logged the round. The engine gives the memory of its KV cache to
    the update and takes it back afterwards.
    """
    config, engine, objective = learner.config, learner.engine, learner.objective
    clock, memory = _PhaseClock(), {}
    reset_peak(learner.policy.device.type)

    def on_sampled() -> None:
        memory.update(engine.release_memory())
        clock.end("rollout")

    state = TrainerState(round_index, config.run.max_rounds)
    scoring, before = learner.reward.open(trainer_state=state), learner.reward.statistics()
    groups = collect(
        engine,
        scoring,
        prompts,
        config.sampling.sampling,
        [sampling_seed(config.run.seed, "train", round_index, i) for i in range(len(prompts))],
        config.round.budget,
        on_sampled=on_sampled,
        where=f"round {round_index}",
    )
    clock.end("reward")
    learner.judged.check(groups, config, round_index, scoring.log.notes)
    learner.suspects.add(groups)
    objective.weigh(groups)
    update = _update(learner, groups)
    if update:
        check_update(update, round_index, drift_limit(config, learner.policy.dtype))
    clock.end("train")
    memory |= engine.regain_memory()
    failure = update.failure if update else None
    if update:
        try:
            engine.weights_updated()
        except (GuardStop, EngineFailure) as error:
            failure = failure or error
    clock.end("sync")
    notes, used = _memory_used(learner)
    metrics = {
        "round": round_index,
        **rollout_metrics(groups),
        **verdict_shares(groups),
        **part_means(groups),
        **scoring.log.metrics(),
        **update_metrics(update, groups),
        **of_this_round(before, learner.reward.statistics()),
        "learning_rate": learner.optimizer.learning_rate,
        **memory,
        **used,
        **clock.metrics(),
    }
    metrics["tokens_per_s"] = metrics["num_tokens"] / metrics["time/rollout"]
    return RoundResult(groups, metrics, [*scoring.log.notes, *notes], failure)


def _update(learner: Learner, groups: Sequence[Group]) -> UpdateMetrics | None:
    """The round's optimizer steps on the rollouts with a weight; None where no rollout has one."""
    rollouts = [r for group in groups for r in group.rollouts if r.weight != 0]
    if not rollouts:
        return None
    config, policy, objective = learner.config, learner.policy, learner.objective
    minibatches = minibatches_of(
        rollouts, objective.minibatches, learner.passes.tokens, policy.device
    )
    return update_policy(
        policy,
        learner.optimizer,
        minibatches,
        objective,
        config.sampling.temperature,
        vocab=learner.vocab,
        logits_dtype=logits_dtype(config.model),
        activations=learner.activations,
        budget=learner.passes,
        before_step=learner.stop.hold,
    )


def _memory_used(learner: Learner) -> tuple[list[str], dict]:
    """(what failed, metrics): the prediction for the round's largest pass, and the peak."""
    notes, largest = learner.passes.read()
    policy, plan = learner.policy, learner.plan
    return notes, {
        "memory/micro_batch_tokens": learner.passes.tokens,
        "memory/largest_pass_tokens": largest,
        "memory/predicted_peak_bytes": plan.peak(largest, policy.is_gradient_checkpointing),
        "memory/peak_bytes": peak_bytes(policy.device.type),
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
