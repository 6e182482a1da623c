"""The parts of a run from its settings.

Everything that can be wrong with the input is found before a weight is loaded: output directory,
data, reward function, architecture, prompt lengths, in this order.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from nsr_fast.config import Config
from nsr_fast.data import load_prompts, read_rows
from nsr_fast.data.repeats import data_warnings
from nsr_fast.errors import InputError
from nsr_fast.model.load import (
    Policy,
    Tokenizer,
    check_context,
    load_policy,
    load_tokenizer,
    stop_token_ids,
)
from nsr_fast.reward import load_reward
from nsr_fast.reward.reward import Reward
from nsr_fast.reward.trial import trial_calls
from nsr_fast.rollout.engine import Engine, build_engine, resolve_engine
from nsr_fast.run.directory import check_output_dir
from nsr_fast.types import Prompt


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads before it loads weights."""

    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    warnings: list[str]
    reward: Reward
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Actor:
    """A policy and the engine that samples from its weights."""

    policy: Policy
    engine: Engine


def prepare(config: Config) -> Inputs:
    """Check everything and read the data. Raises InputError; changes nothing on disk."""
    check_output_dir(config.run)
    needs_answer = bool(config.reward.built_in)
    rows = read_rows(config.data.data, needs_answer=needs_answer)
    eval_rows = []
    if config.eval.eval_data:
        eval_rows = read_rows(config.eval.eval_data, key="eval_data", needs_answer=needs_answer)
    reward = load_reward(
        config.reward.reward,
        weights=config.reward.reward_weights,
        correct_by=config.reward.correct_by,
        timeout_s=config.reward.reward_timeout_s,
        extract=config.reward.extract,
        unsafe=config.reward.unsafe,
        mask_truncated=config.reward.mask_truncated_completions,
    )
    drop = config.reward.drop_bad_golds
    rows = reward.check_rows(rows, drop_bad_golds=drop)
    with _named("eval_data"):
        eval_rows = reward.check_rows(eval_rows, drop_bad_golds=drop)
    notes = trial_calls([p for p, _ in reward.parts], rows, config.sampling.num_generations)
    resolve_engine(config.engine.engine)
    tokenizer = load_tokenizer(config.model.model)
    prompts = load_prompts(rows, config.data, tokenizer)
    limit = config.eval.eval_num_prompts
    with _named("eval_data"):
        eval_prompts = load_prompts(eval_rows, config.data, tokenizer, limit=limit)
    warnings = [*data_warnings(rows, eval_rows), *notes]
    return Inputs(prompts, eval_prompts, warnings, reward, tokenizer)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """What is said of "data" is said of `key`, the setting that names these rows."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^data: ", f"{key}: ", str(error))) from error.__cause__


def build_actor(config: Config, tokenizer: Tokenizer) -> Actor:
    """Load the policy and start the engine on its weights."""
    if config.run.cpu_threads:
        torch.set_num_threads(config.run.cpu_threads)  # vLLM freezes the number when it starts
    policy = load_policy(config.model)
    max_model_len = config.data.max_prompt_length + config.sampling.max_completion_length
    check_context(policy, max_model_len)
    engine = build_engine(
        config.engine,
        config.model.model,
        policy,
        tokenizer,
        stop_token_ids=stop_token_ids(policy, tokenizer),
        max_model_len=max_model_len,
        seed=config.run.seed,
    )
    return Actor(policy, engine)
