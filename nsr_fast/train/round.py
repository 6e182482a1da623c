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
from nsr_fast.objective.weights import Now
from nsr_fast.reward.reward import Reward
from nsr_fast.reward.round_log import TrainerState
from nsr_fast.rollout.collect import collect
from nsr_fast.rollout.engine import Engine
from nsr_fast.train.guards import Guards
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
from nsr_fast.train.step import update_policy
from nsr_fast.train.stop import Stop
from nsr_fast.train.suspects import Suspects
from nsr_fast.train.tally import UpdateMetrics
from nsr_fast.types import Group, Prompt, Rollout, sampling_seed


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
    guards: Guards
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
    is_skipped: bool = False  # a guard kept the round from being trained on, as a note says
    skipped: dict[int, list[Rollout]] = field(default_factory=dict)  # steps not taken, by number


def run_round(learner: Learner, round_index: int, prompts: Sequence[Prompt]) -> RoundResult:
    """Sample, score, weigh, update, sync.

    Raises what ends the run before a weight has changed (GuardStop: nothing judged, drift), and
    guards and judged are then as before; what ends it after that, or for a step that was not taken,
    is the result's `failure`. learner.stop is held from the first step on, until the caller has
    logged the round. The engine gives the memory of its KV cache to the update and takes it back
    afterwards.
    """
    guards, judged = learner.guards.state(), learner.judged.state()
    try:
        return _round(learner, round_index, prompts)
    except BaseException:
        learner.stop.hold()
        learner.guards.restore(guards)
        learner.judged.restore(judged)
        raise


def _round(learner: Learner, round_index: int, prompts: Sequence[Prompt]) -> RoundResult:
    config, engine, guards = learner.config, learner.engine, learner.guards
    clock, memory = _PhaseClock(), {}
    reset_peak(learner.policy.device.type)
    guards.begin(round_index)

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
    numbers, found = rollout_metrics(groups), scoring.log
    findings = learner.judged.findings(groups, config, round_index, found.notes)
    is_trained = guards.after_sampling(findings, numbers, groups)
    now = Now(round_index, config.run.max_rounds)
    update = _update(learner, groups, now) if is_trained else None
    clock.end("train")
    memory |= engine.regain_memory()
    failure = _synced(engine, update) if update else None
    clock.end("sync")
    learner.stop.hold()
    learner.suspects.add(groups)
    notes, used = _memory_used(learner)
    metrics = {
        "round": round_index,
        **numbers,
        **verdict_shares(groups),
        **part_means(groups),
        **found.metrics(),
        **update_metrics(update, groups),
        **of_this_round(before, learner.reward.statistics()),
        **guards.metrics(),
        "learning_rate": learner.optimizer.learning_rate,
        **memory,
        **used,
        **clock.metrics(),
    }
    metrics["tokens_per_s"] = metrics["num_tokens"] / metrics["time/rollout"]
    return RoundResult(
        groups,
        metrics,
        [*found.notes, *guards.notes, *notes],
        failure,
        is_skipped=not is_trained or (update is not None and not update.steps),
        skipped=update.skipped if update else {},
    )


def _synced(engine: Engine, update: UpdateMetrics) -> Exception | None:
    """What ends the run after this update, if anything: of a step, or of the engine."""
    try:
        engine.weights_updated()
    except (GuardStop, EngineFailure) as error:
        return update.failure or error
    return update.failure


def _update(learner: Learner, groups: Sequence[Group], now: Now) -> UpdateMetrics | None:
    """The round's optimizer steps on the rollouts with a weight; None where no rollout has one."""
    objective = learner.guards.objective(learner.objective)
    objective.weigh(groups, now)
    rollouts = [r for group in groups for r in group.rollouts if r.is_trained]
    if not rollouts:
        return None
    config, policy = learner.config, learner.policy
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
        guard=learner.guards,
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
