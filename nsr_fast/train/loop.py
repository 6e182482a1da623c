"""A run: evaluate, then rounds of generate and update, then evaluate, save and report."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from nsr_fast.config import Config
from nsr_fast.data import prompts_of_round
from nsr_fast.errors import GuardStop, InputError
from nsr_fast.evaluate.sample import Evaluation, evaluate_policy
from nsr_fast.evaluate.summary import summary_lines
from nsr_fast.info import environment
from nsr_fast.memory.measure import give_back_freed_memory
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.memory.table import plan_lines
from nsr_fast.model.attention import attention_note
from nsr_fast.objective import objective_of
from nsr_fast.reward.round_log import TrainerState
from nsr_fast.rollout.engine import resolve_engine
from nsr_fast.run.build import Inputs, build_actor, prepare
from nsr_fast.run.checkpoint import save_checkpoint
from nsr_fast.run.directory import RunDirectory
from nsr_fast.run.progress import Progress, clock
from nsr_fast.run.report import write_report
from nsr_fast.train.guards import Guards
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.passes import PassBudget
from nsr_fast.train.round import Learner, RoundResult, run_round
from nsr_fast.types import Prompt


def train(config: Config) -> Path:
    """Run the training of `config`; returns the run directory."""
    inputs = prepare(config)
    folder = Path(config.run.output_dir)
    if config.run.dry_run:
        _print_dry_run(config, inputs)
        return folder
    with Progress(config.run.max_rounds) as progress:
        for line in (*inputs.warnings, *inputs.opening, *plan_lines(inputs.plan)):
            progress.say(line)
        if inputs.plan.setup.device == "cpu":
            give_back_freed_memory()
        engine = resolve_engine(config.engine.engine)
        progress.say(f"model {config.model.model}: loading, starting {engine} ...")
        learner = build_learner(config, inputs)
        for note in (*learner.engine.notes, attention_note(learner.policy)):
            progress.say(note)
        try:
            _run(learner, inputs, RunDirectory(config, environment()), progress)
        except KeyboardInterrupt:
            if (folder / "metrics.jsonl").is_file():
                progress.say(f"stopped; report {write_report(folder)}")
            raise
        finally:
            learner.engine.close()
    return folder


def build_learner(config: Config, inputs: Inputs) -> Learner:
    """The policy and its engine, with the optimizer of its parameters."""
    actor = build_actor(config, inputs)
    head = actor.policy.lm_head.weight
    names = [name for name, p in actor.policy.named_parameters() if p is head]
    return Learner(
        config=config,
        policy=actor.policy,
        engine=actor.engine,
        reward=inputs.reward,
        objective=objective_of(config.objective),
        optimizer=PolicyOptimizer(
            actor.policy.named_parameters(),
            config.optimizer,
            num_rows=dict.fromkeys(names, inputs.vocab),
            seed=config.run.seed,
            offload=config.memory.offload,
        ),
        plan=inputs.plan,
        passes=PassBudget(inputs.plan.tokens),
        guards=Guards(config, actor.policy.dtype),
        vocab=inputs.vocab,
        activations=ActivationOffload() if inputs.plan.setup.activation_offload else None,
    )


def _run(learner: Learner, inputs: Inputs, run: RunDirectory, progress: Progress) -> None:
    started, config = time.monotonic(), learner.config
    last = config.run.max_rounds
    evaluations = {0: _evaluate(learner, inputs, run, progress, 0)}
    for n in range(1, last + 1):
        progress.status(f"round {n}")
        steps = learner.optimizer.num_steps
        try:
            result = run_round(learner, n, _batch(learner, inputs, n))
        except (InputError, GuardStop):
            if n > 1 and learner.optimizer.num_steps == steps:
                _keep(learner, inputs, run, progress, n - 1)
            raise
        _log(learner, run, progress, result)
        learner.stop.release()
        if result.failure:
            _keep(learner, inputs, run, progress, n)
            raise result.failure
        if n == last or (config.eval.eval_rounds and n % config.eval.eval_rounds == 0):
            evaluations[n] = _evaluate(learner, inputs, run, progress, n)
        if n == last or (config.save.save_rounds and n % config.save.save_rounds == 0):
            _save(learner, inputs, run, progress, n)
    name = config.objective.objective
    for line in summary_lines(name, evaluations[0], evaluations[last]):
        progress.say(line)
    progress.say(f"report {write_report(run.path)}   run time {clock(time.monotonic() - started)}")


def _log(learner: Learner, run: RunDirectory, progress: Progress, result: RoundResult) -> None:
    metrics = result.metrics
    run.log_round(metrics)
    run.log_rollouts(metrics["round"], result.groups, learner.config.run.sample_rollouts)
    run.log_skipped(metrics["round"], result.skipped)
    run.write_suspects(learner.suspects.records())
    for note in result.notes:
        progress.say(f"round {metrics['round']}: {note}")
    progress.round_done(metrics)
    if metrics["trained_tokens"] == 0 and not result.is_skipped:
        progress.say(nothing_trained(metrics))


def _keep(
    learner: Learner, inputs: Inputs, run: RunDirectory, progress: Progress, round_index: int
) -> None:
    """The weights of the last whole round and the report, before an error ends the run."""
    if not run.checkpoint(round_index).exists():
        _save(learner, inputs, run, progress, round_index)
    progress.say(f"stopped; report {write_report(run.path)}")


def _batch(learner: Learner, inputs: Inputs, round_index: int) -> list[Prompt]:
    """The round's prompts without those in quarantine."""
    keys, after = learner.config, learner.config.guards.quarantine_after
    for place in range(len(inputs.prompts)):
        size, seed = keys.round.prompts_per_round, keys.run.seed
        batch = prompts_of_round(inputs.prompts, size, seed, round_index + place)
        if kept := learner.suspects.without_quarantined(batch, after):
            return kept
    raise GuardStop(
        f"round {round_index}: every prompt is in quarantine (quarantine_after {after}); see "
        "suspicious_golds.jsonl and mend the answers"
    )


def _save(
    learner: Learner, inputs: Inputs, run: RunDirectory, progress: Progress, round_index: int
) -> None:
    folder = run.checkpoint(round_index)
    state = {"round": round_index, "optimizer": learner.optimizer.state_dict()}
    save_checkpoint(folder, learner.policy, inputs.tokenizer, state)
    progress.say(f"saved {folder}")


def _evaluate(
    learner: Learner, inputs: Inputs, run: RunDirectory, progress: Progress, round_index: int
) -> Evaluation | None:
    if not inputs.eval_prompts:
        return None
    config = learner.config
    evaluation = evaluate_policy(
        learner.engine,
        inputs.eval_prompts,
        learner.reward,
        config.eval.sampling(config.sampling.max_completion_length),
        seed=config.run.seed,
        trainer_state=TrainerState(round_index, config.run.max_rounds),
        progress=lambda done, total: progress.status(
            f"evaluating after round {round_index}: {done}/{total} problems"
        ),
    )
    record = evaluation.record(round_index)
    run.log_evaluation(record)
    for note in evaluation.notes:
        progress.say(note)
    curve = "  ".join(f"@{k} {p:.3f}" for k, p in zip(record["k"], record["pass_at_k"]))
    progress.say(f"after round {round_index}: Pass@k  {curve}   entropy {evaluation.entropy:.3f}")
    for note in learner.guards.after_evaluation(record):
        progress.say(f"after round {round_index}: {note}")
    return evaluation


def nothing_trained(metrics: Mapping) -> str:
    """Why a round changed no weight, in one line."""
    return (
        f"round {metrics['round']}: no rollout carried a weight, nothing was trained: "
        f"{metrics['num_cut']} cut by the round's budget, {metrics['num_unscored']} unscored in "
        f"all, the rest of a sign that this objective drops"
    )


def _print_dry_run(config: Config, inputs: Inputs) -> None:
    for line in (*inputs.warnings, *inputs.opening, *plan_lines(inputs.plan)):
        print(line)
    lengths = sorted(len(prompt.token_ids) for prompt in inputs.prompts)
    print(json.dumps(config.flat(), indent=1))
    print(
        f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens, "
        f"{len(inputs.eval_prompts)} evaluation problems; nothing was loaded or written"
    )
