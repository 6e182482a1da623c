"""A run: its inputs, its policy and engine, then its course."""

import json
from pathlib import Path

from nsr_fast.config import Config
from nsr_fast.info import environment
from nsr_fast.memory.measure import give_back_freed_memory
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.memory.table import plan_lines
from nsr_fast.model.attention import attention_note
from nsr_fast.objective import objective_of
from nsr_fast.rollout.engine import resolve_engine
from nsr_fast.run.build import Inputs, build_actor, prepare
from nsr_fast.run.checkpoints import Checkpoints
from nsr_fast.run.directory import RunDirectory
from nsr_fast.run.lock import RunLock, check_unlocked
from nsr_fast.run.progress import Progress
from nsr_fast.run.resume import Start, check_prompts, find_start
from nsr_fast.train.course import Course
from nsr_fast.train.guards import Guards
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.passes import PassBudget
from nsr_fast.train.round import Learner
from nsr_fast.train.state import restore
from nsr_fast.train.stop import Stop


def train(config: Config, stop: Stop | None = None) -> Path:
    """Run the training of `config`, or go on with it; returns the run directory.

    stop   of the caller, entered already; None: signals and max_time are looked after here
    """
    if stop is None:
        with Stop(config.run.max_time) as own:
            return train(config, own)
    folder = Path(config.run.output_dir)
    if config.run.dry_run:
        check_unlocked(folder)
        _print_dry_run(config, _inputs(config, find_start(config)))
        return folder
    with RunLock(folder):  # before it is looked where the run stands
        start = find_start(config)
        _run(config, start, _inputs(config, start), stop)
    return folder


def _run(config: Config, start: Start | None, inputs: Inputs, stop: Stop) -> None:
    with Progress(config.run.max_rounds) as progress:
        for line in (*inputs.warnings, *inputs.opening, *plan_lines(inputs.plan)):
            progress.say(line)
        if inputs.plan.setup.device == "cpu":
            give_back_freed_memory()
        built = start.model_config(config) if start else config
        engine = resolve_engine(config.engine.engine)
        progress.say(f"model {built.model.model}: loading, starting {engine} ...")
        learner = build_learner(built, inputs, stop)
        try:
            for note in (*learner.engine.notes, attention_note(learner.policy)):
                progress.say(note)
            if start:
                restore(learner, inputs.prompts, start.state, config.flat())
            stop.check()
            run = _run_directory(config, start, progress)
            _course(config, learner, inputs, run, progress, start).go()
        finally:
            learner.engine.close()


def _inputs(config: Config, start: Start | None) -> Inputs:
    """What a run goes on from is its model, tokenizer and all."""
    if start is None:
        is_resumed = config.run.resume_from_checkpoint is True  # nothing there to go on from
        return prepare(config, is_resumed=is_resumed)
    inputs = prepare(start.model_config(config), is_resumed=start.is_here)
    check_prompts(inputs.prompts, start.state)
    return inputs


def build_learner(config: Config, inputs: Inputs, stop: Stop | None = None) -> Learner:
    """The policy and its engine, with the optimizer of its parameters."""
    actor = build_actor(config, inputs)
    head = actor.policy.lm_head.weight
    names = [name for name, p in actor.policy.named_parameters() if p is head]
    return Learner(
        config=config,
        policy=actor.policy,
        engine=actor.engine,
        reward=inputs.reward,
        objective=objective_of(config.objective, config.sampling.max_completion_length),
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
        stop=stop or Stop(),
    )


def _run_directory(config: Config, start: Start | None, progress: Progress) -> RunDirectory:
    if start and start.is_here:
        cleaned = Checkpoints(start.folder.parent).clean()
        run, notes = RunDirectory.reopen(config, environment(), start.round)
        notes = [*cleaned, *notes]
    else:
        run, notes = RunDirectory.create(config, environment())
        if start:
            run.copy_history(start.folder.parent.parent, start.round)
    for note in (*(start.notes if start else ()), *notes):
        progress.say(note)
    return run


def _course(
    config: Config,
    learner: Learner,
    inputs: Inputs,
    run: RunDirectory,
    progress: Progress,
    start: Start | None,
) -> Course:
    course = Course(learner, inputs, run, progress, config.flat())
    if start:
        progress.say(f"going on after round {start.round}: {start.folder}")
        course.done = start.round
        course.evaluations = {record["round"]: record for record in run.evaluations()}
    return course


def _print_dry_run(config: Config, inputs: Inputs) -> None:
    for line in (*inputs.warnings, *inputs.opening, *plan_lines(inputs.plan)):
        print(line)
    lengths = sorted(len(prompt.token_ids) for prompt in inputs.prompts)
    print(json.dumps(config.flat(), indent=1))
    print(
        f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens, "
        f"{len(inputs.eval_prompts)} evaluation problems; nothing was loaded or written"
    )
