"""The one place that decides what a guard does that was met: go on, skip, stop, raise lambda.

Names, defaults and what each may do: config_guards.py. What is found: judged.py, behaviour.py, and
here what concerns a step or an evaluation. In bfloat16 a logit of size z is a multiple of

    spacing(z) = 2**(floor(log2 z) - 7)

which alone moves logprobs (measured: mean drift .03 to .087 nats at z = 38, spacing .25), so the
default limit of the drift follows it: max(0.1, 0.6 spacing(z)).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import frexp, isfinite

import torch

from nsr_fast.config import Config
from nsr_fast.config_guards import GUARDS
from nsr_fast.errors import GuardStop
from nsr_fast.evaluate.pass_at_k import paired_difference
from nsr_fast.objective import Objective
from nsr_fast.train.behaviour import behaviour_findings
from nsr_fast.train.findings import Finding
from nsr_fast.train.tally import Drift, StepGuard
from nsr_fast.types import Group

_DRIFT_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_SPACINGS = 0.6
_LEAST_LAMBDA = 0.1  # what 0 is raised to


class Guards(StepGuard):
    """Use in this order, each round: begin, after_sampling, objective, (a StepGuard), metrics; and
    after_evaluation. What they remember is state(); a round that fails must restore it.

    dtype   of the policy
    """

    def __init__(self, config: Config, dtype: torch.dtype):
        self._config, self._dtype = config, dtype
        self._actions = {name: guard.actions[0] for name, guard in GUARDS.items()}
        self._actions |= config.limits.guard_actions
        self._first_length: float | None = None  # mean completion of the first round
        self._num_skipped = 0  # steps in a row
        self._psr_weight: float | None = None  # None: never raised
        self._best: dict | None = None  # evaluation: round, num_samples, num_correct
        self._met_after: list[str] = []  # the round before, by its evaluation
        self.evaluated: int | None = None  # the round whose evaluation was seen last
        self._round = 0
        self._notes: list[str] = []
        self._met: list[str] = []

    def state(self) -> dict:
        """What goes on after this round, as plain numbers, texts and lists."""
        return {
            "first_length": self._first_length,
            "num_skipped": self._num_skipped,
            "psr_weight": self._psr_weight,
            "best": self._best,
            "met_after": list(self._met_after),
            "evaluated": self.evaluated,
            "evaluated_by": self._evaluated_by(),
        }

    def restore(self, state: Mapping) -> None:
        """Of state(). The best evaluation is forgotten where problems or sampling have changed."""
        self._first_length = state["first_length"]
        self._num_skipped = state["num_skipped"]
        self._psr_weight = state["psr_weight"]
        self._best = state["best"] if state["evaluated_by"] == self._evaluated_by() else None
        self._met_after = list(state["met_after"])
        self.evaluated = state["evaluated"]

    def begin(self, round_index: int) -> None:
        """Of a round."""
        self._round = round_index
        self._notes, self._met, self._met_after = [], self._met_after, []

    def after_sampling(
        self, found: Sequence[Finding], numbers: Mapping, groups: Sequence[Group]
    ) -> bool:
        """Whether the round is to be trained on. Raises GuardStop.

        found     by Judged
        numbers   of rollout_metrics
        """
        if self._first_length is None and numbers["num_tokens"]:
            self._first_length = numbers["completion_length_mean"]
        where = f"round {self._round}, nothing was trained on it"
        behaviour = behaviour_findings(self._config.limits, numbers, groups, self._first_length)
        actions = [self._act(each, where) for each in (*found, *behaviour)]
        return "skip" not in actions

    def objective(self, objective: Objective) -> Objective:
        """With the weight of correct rollouts that raise_lambda has come to."""
        if self._psr_weight is None:
            return objective
        return replace(objective, positive_weight=self._psr_weight)

    def allows(self, drift: Drift) -> bool:
        """Whether trainer and engine agree. Raises GuardStop."""
        limit = drift_limit(self._config, self._dtype, drift.largest_logit)
        if limit is None or drift.mean <= limit:
            return True
        where = f"round {self._round}, nothing was trained on it"
        return self._act(self._drift_finding(drift, limit), where) != "skip"

    def taken(self) -> None:
        """A step."""
        self._num_skipped = 0

    def non_finite(self, step: int, what: str, value: float) -> GuardStop | None:
        """A step that was not taken. Returns what ends the run, if it is one too many."""
        self._num_skipped += 1
        self._met.append("non_finite")
        limit = self._config.limits.max_skipped_steps
        file = f"skipped/round-{self._round}-step-{step}.jsonl"
        found = f"the {what} of step {step} is {value}; that step was not taken, its rollouts are "
        found += f"in {file}"
        if self._actions["non_finite"] == "stop":
            cure = "lower learning_rate, or set guard_actions: non_finite=skip"
            return GuardStop(f"round {self._round}: {found}; {cure}")
        if self._num_skipped > limit:
            return GuardStop(
                f"round {self._round}: {found}; {self._num_skipped} such steps in a row: lower "
                f"learning_rate, or set max_skipped_steps (now {limit})"
            )
        self._notes.append(f"guard non_finite (skip): {found}")
        return None

    def after_evaluation(self, record: Mapping) -> list[str]:
        """Lines for the user. Raises GuardStop.

        record    of eval.jsonl, on the same problems in the same order every time
        """
        limit, self.evaluated = self._config.limits.max_pass_at_1_drop, record["round"]
        mine = {name: record[name] for name in ("round", "num_samples", "num_correct")}
        if not _is_pair(self._best, mine) or sum(mine["num_correct"]) > sum(
            self._best["num_correct"]
        ):
            self._best = mine
        if limit is None:
            return []
        n, best = mine["num_samples"], self._best
        drop = paired_difference(best["num_correct"], mine["num_correct"], n, 1)
        if drop.mean > -limit or drop.high >= 0:
            return []
        what = (
            f"Pass@1 fell by {-drop.mean:.3f} [{-drop.high:.3f}, {-drop.low:.3f}] since round "
            f"{best['round']}"
        )
        cure = f"take the weights of round {best['round']} (save_best: pass_at_1 keeps them)"
        finding = Finding("max_pass_at_1_drop", what, cure, limit)
        self._notes, self._met = [], self._met_after
        self._act(finding, f"after round {mine['round']}")
        return self._notes

    @property
    def notes(self) -> list[str]:
        """Lines of this round for the user."""
        return list(self._notes)

    def metrics(self) -> dict[str, float]:
        """Of this round; an evaluation that came before it is counted here."""
        found: dict[str, float] = {f"guards/{name}": 1 for name in self._met}
        if self._config.objective.objective == "w_reinforce":
            raised, given = self._psr_weight, self._config.objective.psr_weight
            found["psr_weight"] = given if raised is None else raised
        return found

    def _act(self, finding: Finding, where: str) -> str:
        action = self._actions[finding.name]
        self._met.append(finding.name)
        if action == "stop":
            raise GuardStop(finding.stop_text(where))
        then = "; nothing is trained on this round" if action == "skip" else ""
        if action == "raise_lambda":
            then = f"; {self._raise_lambda()}"
        self._notes.append(finding.line(action, then))
        return action

    def _raise_lambda(self) -> str:
        given = self._config.objective.psr_weight
        before = given if self._psr_weight is None else self._psr_weight
        self._psr_weight = min(1.0, 2 * before or _LEAST_LAMBDA)
        return f"psr_weight {before:g} -> {self._psr_weight:g}"

    def _drift_finding(self, drift: Drift, limit: float) -> Finding:
        what = f"trainer and engine disagree by {drift.mean:.2e} nats a token on average"
        spacing = bfloat16_spacing(drift.largest_logit)
        can_be_rounding = drift.mean <= 2 * spacing  # stale weights know no such bound
        if can_be_rounding and has_rounded_logits(self._config, self._dtype):
            what += (
                f": bfloat16 rounds logits as large as this model's, {drift.largest_logit:.3g}, to "
                f"multiples of {spacing:.3g}"
            )
            return Finding("drift_limit", what, "set logits_dtype: float32", limit)
        what += ": the engine does not run the trainer's weights, or precision differs too much"
        cure = "set share_weights: true, if it is false"
        return Finding("drift_limit", what, cure, limit)

    def _evaluated_by(self) -> list:
        keys = self._config.eval.model_dump(exclude={"eval_rounds"})
        return [*keys.values(), self._config.sampling.max_completion_length]


def _is_pair(a: Mapping | None, b: Mapping) -> bool:
    """Whether both evaluations are of as many problems and samples."""
    shapes = [x and (x["num_samples"], len(x["num_correct"])) for x in (a, b)]
    return shapes[0] == shapes[1]


def drift_limit(config: Config, dtype: torch.dtype, largest_logit: float) -> float | None:
    """Mean |policy - sampler| logprob that is too much; None: sampling is truncated, so that its
    logprobs are of another distribution."""
    if config.sampling.sampling.is_truncated:
        return None
    if config.limits.drift_limit is not None:
        return config.limits.drift_limit
    limit = _DRIFT_LIMIT[dtype]
    if has_rounded_logits(config, dtype):
        limit = max(limit, _SPACINGS * bfloat16_spacing(largest_logit))
    return limit


def has_rounded_logits(config: Config, dtype: torch.dtype) -> bool:
    """Whether logits are kept in bfloat16."""
    is_wide = config.model.logits_dtype == "float32"
    return dtype == torch.bfloat16 and not is_wide


def bfloat16_spacing(value: float) -> float:
    """Between the bfloat16 numbers of that size; of 1 for smaller ones and what is no number."""
    if not isfinite(value) or abs(value) < 1:
        value = 1.0
    return 2.0 ** (frexp(value)[1] - 1 - 7)
