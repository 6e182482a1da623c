"""The course of a run: rounds, evaluations, checkpoints, and what is kept when it ends early."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from shlex import quote

from nsr_fast.data import prompts_of_round
from nsr_fast.errors import GuardStop, InputError
from nsr_fast.evaluate.sample import Evaluation, evaluate_policy
from nsr_fast.evaluate.summary import summary_lines
from nsr_fast.reward.round_log import TrainerState
from nsr_fast.run.build import Inputs
from nsr_fast.run.checkpoint import save_checkpoint
from nsr_fast.run.checkpoints import Checkpoints
from nsr_fast.run.directory import RunDirectory
from nsr_fast.run.progress import Progress, clock
from nsr_fast.run.report import write_report
from nsr_fast.run.resume import prompts_digest
from nsr_fast.train.round import Learner, RoundResult, run_round
from nsr_fast.train.state import trainer_state
from nsr_fast.types import Prompt


@dataclass
class Course:
    """One run from the round after `done` on.

    done         the last whole round; 0: none. The policy's weights are those after it
    is_saved     whether they lie in a checkpoint
    settings     of the run, as config.yaml has them
    evaluations  so far, by round: the records of eval.jsonl
    """

    learner: Learner
    inputs: Inputs
    run: RunDirectory
    progress: Progress
    settings: dict
    done: int = 0
    is_saved: bool = True
    evaluations: dict[int, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._steps = self.learner.optimizer.num_steps  # of the weights after `done`
        self._checkpoints = Checkpoints(self.run.checkpoints)

    def go(self) -> None:
        """All rounds to max_rounds. Whatever ends them early: first the last whole round is saved,
        the report written, and said how to go on."""
        try:
            self._rounds()
        except BaseException as error:
            self.learner.stop.hold()
            self._keep(error)
            raise

    def _rounds(self) -> None:
        learner, stop, config = self.learner, self.learner.stop, self.learner.config
        last = config.run.max_rounds
        if self._wants_evaluation(self.done):
            self._evaluate_at_start()
        self._link()
        for n in range(self.done + 1, last + 1):
            self.progress.status(f"round {n}")
            result = run_round(learner, n, self._batch(n))
            self._log(result)
            self.done, self._steps, self.is_saved = n, learner.optimizer.num_steps, False
            stop.release()
            if result.failure:
                raise result.failure
            if self._wants_evaluation(n):
                self._evaluate()
            if self._wants_save(n):
                self.save()
            if n < last:
                stop.round_done(result.metrics["round_time"])
        for line in self._summary():
            self.progress.say(line)
        took = clock(time.monotonic() - self._started)
        self.progress.say(f"report {write_report(self.run.path)}   run time {took}")

    def _evaluate_at_start(self) -> None:
        """Of the start weights; or where a stop came before it, or before the guards saw it: the
        checkpoint is then written again, with what they know now."""
        record, guards = self.evaluations.get(self.done), self.learner.guards
        if record is None:
            self._evaluate()
        elif guards.evaluated != self.done:
            for note in guards.after_evaluation(record):
                self.progress.say(f"after round {self.done}: {note}")
        else:
            return
        if self.done:
            self.save()

    def save(self) -> None:
        """The last whole round as a checkpoint; requests to stop wait for it."""
        self.learner.stop.hold()
        self._write()
        self.learner.stop.release()

    def _write(self) -> None:
        learner, began = self.learner, time.monotonic()
        folder, keys = self._checkpoints.path(self.done), learner.config.save
        state = None
        if not keys.save_only_weights:
            state = trainer_state(learner, self.inputs.prompts, self.settings, self.done)
        save_checkpoint(folder, learner.policy, self.inputs.tokenizer, state)
        best = self._link()
        if keys.save_total_limit:
            self._checkpoints.prune(keys.save_total_limit, keep={self.done, best} - {None})
        self.is_saved = True
        seconds = time.monotonic() - began
        learner.stop.saved(seconds)
        self.progress.say(f"saved {folder} in {seconds:.1f} s")

    def _link(self) -> int | None:
        """last and best, of the checkpoints that are there; the best evaluated round."""
        best, there = self._best_round(), self._checkpoints.rounds()
        for name, round_index in (("last", self.done), ("best", best)):
            if round_index in there:
                self._checkpoints.link(name, round_index)
        return best

    def _keep(self, error: BaseException) -> None:
        """Before an error ends the run. A disk that is full must not hide it."""
        is_whole = self.learner.optimizer.num_steps == self._steps
        try:
            if not self.is_saved and is_whole and not isinstance(error, OSError):
                self._write()
        except OSError as failure:
            self.progress.say(f"{failure}")
        with suppress(OSError, InputError):
            self.progress.say(f"stopped; report {write_report(self.run.path)}")
        self.progress.say(self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        rounds = self._checkpoints.rounds()
        if not rounds:
            return "no round was whole yet, so nothing was saved"
        kept, lost = rounds[-1], self.done - rounds[-1]
        after = f" ({lost} of {self.done} rounds are lost)" if lost else ""
        if self.learner.config.save.save_only_weights:
            return f"weights after round {kept}{after}: {self._checkpoints.path(kept)}"
        return f"go on after round {kept}{after}: nsr-fast resume {quote(str(self.run.path))}"

    def _wants_evaluation(self, n: int) -> bool:
        keys = self.learner.config
        if not self.inputs.eval_prompts:
            return False
        every = keys.eval.eval_rounds
        return n in (0, keys.run.max_rounds) or bool(every and n % every == 0)

    def _wants_save(self, n: int) -> bool:
        keys = self.learner.config
        is_due = keys.save.save_rounds and n % keys.save.save_rounds == 0
        must_be_timed = keys.run.max_time is not None and not self._checkpoints.rounds()
        return bool(n == keys.run.max_rounds or is_due or must_be_timed or self._best_round() == n)

    def _best_round(self) -> int | None:
        """Of the trained rounds that were evaluated: the one with the best save_best."""
        name = self.learner.config.save.save_best
        if name is None:
            return None
        measured = self._measured()
        values = {
            n: _pass_at_k(record, name)
            for n, record in self.evaluations.items()
            if n > 0 and record.get("measured") == measured
        }
        return max(values, key=values.get, default=None)

    def _batch(self, n: int) -> list[Prompt]:
        """The round's prompts without those in quarantine."""
        keys, prompts = self.learner.config, self.inputs.prompts
        after = keys.guards.quarantine_after
        for place in range(len(prompts)):
            batch = prompts_of_round(
                prompts, keys.round.prompts_per_round, keys.run.seed, n + place
            )
            if kept := self.learner.suspects.without_quarantined(batch, after):
                return kept
        raise GuardStop(
            f"round {n}: every prompt is in quarantine (quarantine_after {after}); see "
            "suspicious_golds.jsonl and mend the answers"
        )

    def _log(self, result: RoundResult) -> None:
        metrics = result.metrics
        self.run.log_rollouts(
            metrics["round"], result.groups, self.learner.config.run.sample_rollouts
        )
        self.run.log_skipped(metrics["round"], result.skipped)
        self.run.write_suspects(self.learner.suspects.records())
        self.run.log_round(metrics)
        for note in result.notes:
            self.progress.say(f"round {metrics['round']}: {note}")
        self.progress.round_done(metrics)
        if metrics["trained_tokens"] == 0 and not result.is_skipped:
            self.progress.say(nothing_trained(metrics))

    def _evaluate(self) -> None:
        learner, n, config = self.learner, self.done, self.learner.config
        evaluation = evaluate_policy(
            learner.engine,
            self.inputs.eval_prompts,
            learner.reward,
            config.eval.sampling(config.sampling.max_completion_length),
            seed=config.run.seed,
            trainer_state=TrainerState(n, config.run.max_rounds),
            progress=lambda done, total: self.progress.status(
                f"evaluating after round {n}: {done}/{total} problems"
            ),
        )
        record = evaluation.record(n) | {"measured": self._measured()}
        learner.stop.hold()  # in the log, but not seen by the guards: it would not be done again
        self.run.log_evaluation(record)
        self.evaluations[n] = record
        for note in evaluation.notes:
            self.progress.say(note)
        curve = "  ".join(f"@{k} {p:.3f}" for k, p in zip(record["k"], record["pass_at_k"]))
        self.progress.say(f"after round {n}: Pass@k  {curve}   entropy {evaluation.entropy:.3f}")
        for note in learner.guards.after_evaluation(record):
            self.progress.say(f"after round {n}: {note}")
        learner.stop.release()

    def _measured(self) -> str:
        """What an evaluation is of: the same problems and sampling can be compared."""
        config = self.learner.config
        sampling = config.eval.sampling(config.sampling.max_completion_length)
        return f"{prompts_digest(self.inputs.eval_prompts)}, {sampling}"

    def _summary(self) -> list[str]:
        records = [self.evaluations.get(n) for n in (0, self.done)]
        if None in records:
            return []
        if records[0].get("measured") != records[1].get("measured"):
            return ["no comparison: the first evaluation was of other problems or another sampling"]
        name = self.learner.config.objective.objective
        return summary_lines(name, *map(Evaluation.of_record, records))


def _pass_at_k(record: dict, name: str) -> float:
    """pass_at_K of a line of eval.jsonl."""
    return record["pass_at_k"][record["k"].index(int(name.removeprefix("pass_at_")))]


def nothing_trained(metrics: dict) -> str:
    """Why a round changed no weight, in one line."""
    return (
        f"round {metrics['round']}: no rollout carried a weight, nothing was trained: "
        f"{metrics['num_cut']} cut by the round's budget, {metrics['num_unscored']} unscored in "
        f"all, the rest of a sign that this objective drops"
    )
