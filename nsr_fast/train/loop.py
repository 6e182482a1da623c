"""A run: evaluate, then rounds of generate and update, then evaluate, save and report."""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nsr_fast.config import Config
from nsr_fast.data import Prompt
from nsr_fast.evaluate.sample import Evaluation, evaluate_policy
from nsr_fast.evaluate.summary import summary_lines
from nsr_fast.info import environment
from nsr_fast.rollout.engine import resolve_engine
from nsr_fast.rollout.rollout import Sampling
from nsr_fast.run.report import write_report
from nsr_fast.train.attention import attention_note
from nsr_fast.train.checkpoint import save_checkpoint
from nsr_fast.train.progress import Progress, clock
from nsr_fast.train.round import Learner, RoundResult, run_round
from nsr_fast.train.run_dir import RunDirectory
from nsr_fast.train.setup import Inputs, build_learner, prepare


def train(config: Config) -> Path:
    """Run the training of `config`; returns the run directory."""
    inputs = prepare(config)
    if config.dry_run:
        _print_dry_run(config, inputs)
        return Path(config.output_dir)
    with Progress(config.max_rounds) as progress:
        for warning in inputs.warnings:
            progress.say(warning)
        progress.say(f"model {config.model}: loading, starting {resolve_engine(config.engine)} ...")
        learner = build_learner(config, inputs)
        for note in (*learner.engine.notes, attention_note(learner.policy)):
            progress.say(note)
        try:
            run = RunDirectory(config, environment())
            _run(config, inputs, learner, run, progress)
        except KeyboardInterrupt:
            if (Path(config.output_dir) / "metrics.jsonl").is_file():
                progress.say(f"stopped; report {write_report(config.output_dir)}")
            raise
        finally:
            learner.engine.close()
    return run.path


def prompt_batches(prompts: Sequence[Prompt], batch_size: int, seed: int) -> Iterator[list[Prompt]]:
    """Endless batches; every epoch visits each prompt once, in an order drawn from the seed."""
    epoch, queue = 0, []
    while True:
        while len(queue) < batch_size:
            order = list(prompts)
            random.Random(f"{seed}/{epoch}").shuffle(order)
            queue.extend(order)
            epoch += 1
        yield queue[:batch_size]
        queue = queue[batch_size:]


def _run(
    config: Config, inputs: Inputs, learner: Learner, run: RunDirectory, progress: Progress
) -> None:
    started = time.monotonic()
    evaluations = {0: _evaluate(config, inputs, learner, run, progress, 0)}
    batches = prompt_batches(inputs.prompts, config.prompts_per_round, config.seed)
    for round_index in range(1, config.max_rounds + 1):
        progress.status(f"round {round_index}")
        result = run_round(learner, round_index, next(batches))
        run.log_round(result.metrics)
        run.log_rollouts(round_index, _samples(result, config.sample_rollouts))
        progress.round_done(result.metrics)
        if result.metrics["trained_tokens"] == 0:
            progress.say(nothing_trained(result.metrics))
        is_last = round_index == config.max_rounds
        if is_last or (config.eval_rounds and round_index % config.eval_rounds == 0):
            evaluations[round_index] = _evaluate(
                config, inputs, learner, run, progress, round_index
            )
        if is_last or (config.save_rounds and round_index % config.save_rounds == 0):
            folder = run.checkpoint(round_index)
            save_checkpoint(
                folder, learner.policy, inputs.tokenizer, learner.optimizer, round_index
            )
            progress.say(f"saved {folder}")
    for line in summary_lines(config.objective, evaluations[0], evaluations[config.max_rounds]):
        progress.say(line)
    progress.say(f"report {write_report(run.path)}   run time {clock(time.monotonic() - started)}")


def _evaluate(
    config: Config,
    inputs: Inputs,
    learner: Learner,
    run: RunDirectory,
    progress: Progress,
    round_index: int,
) -> Evaluation | None:
    if not inputs.eval_prompts:
        return None
    evaluation = evaluate_policy(
        learner.engine,
        inputs.eval_prompts,
        learner.reward_fn,
        eval_sampling(config),
        seed=config.seed,
        progress=lambda done, total: progress.status(
            f"evaluating after round {round_index}: {done}/{total} problems"
        ),
    )
    record = evaluation.record(round_index)
    run.log_evaluation(record)
    curve = "  ".join(f"@{k} {p:.3f}" for k, p in zip(record["k"], record["pass_at_k"]))
    progress.say(f"after round {round_index}: Pass@k  {curve}   entropy {evaluation.entropy:.3f}")
    return evaluation


def nothing_trained(metrics: Mapping) -> str:
    """Why a round changed no weight, in one line."""
    return (
        f"round {metrics['round']}: no rollout carried a weight, nothing was trained: "
        f"{metrics['num_cut']} cut by the round's budget, {metrics['num_unscored']} unscored in "
        f"all, the rest of a sign that this objective drops"
    )


def eval_sampling(config: Config) -> Sampling:
    """How evaluation draws its completions."""
    return Sampling(
        config.eval_num_samples,
        config.max_completion_length,
        config.eval_temperature,
        config.eval_top_p,
    )


def _samples(result: RoundResult, limit: int) -> list[dict]:
    pairs = [
        (group, rollout, reward)
        for group, rewards in zip(result.groups, result.rewards, strict=True)
        for rollout, reward in zip(group.rollouts, rewards, strict=True)
    ]
    return [
        {"id": group.prompt.id, "reward": reward, "prompt": group.prompt.text, "text": rollout.text}
        for group, rollout, reward in pairs[:: max(1, len(pairs) // max(1, limit))][:limit]
    ]


def _print_dry_run(config: Config, inputs: Inputs) -> None:
    for warning in inputs.warnings:
        print(warning)
    lengths = sorted(len(prompt.token_ids) for prompt in inputs.prompts)
    print(json.dumps(config.model_dump(), indent=1))
    print(
        f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens, "
        f"{len(inputs.eval_prompts)} evaluation problems; nothing was loaded or written"
    )
