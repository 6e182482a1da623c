"""The parts of a run from its settings.

Everything that can be wrong with the input is found before a weight is loaded: output directory,
data, reward function, architecture, prompts and their tokens, host memory, in this order.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from nsr_fast.config import Config
from nsr_fast.config_run import EngineKeys
from nsr_fast.data import load_prompts, read_rows
from nsr_fast.data.repeats import data_warnings
from nsr_fast.data.templates import template_warnings, turn_end_ids
from nsr_fast.errors import InputError
from nsr_fast.evaluate.pass_at_k import default_ks
from nsr_fast.memory.plan import MemoryPlan
from nsr_fast.model.adapter import init_adapters
from nsr_fast.model.adapter_files import check_adapter, load_adapter
from nsr_fast.model.load import (
    Policy,
    Tokenizer,
    check_context,
    load_policy,
    load_tokenizer,
    logits_dtype,
    model_config,
    stop_token_ids,
    vocabulary,
)
from nsr_fast.model.source import ModelSource, check_quantizable, find_source
from nsr_fast.objective import objective_of
from nsr_fast.reward import load_reward
from nsr_fast.reward.reward import Reward
from nsr_fast.reward.trial import trial_calls
from nsr_fast.rollout.engine import Engine, build_engine, resolve_engine
from nsr_fast.run.checkpoint import check_saveable
from nsr_fast.run.directory import check_output_dir
from nsr_fast.run.opening import dropped_line, opening_lines
from nsr_fast.run.plan import plan_of
from nsr_fast.types import Prompt


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads before it loads weights."""

    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    warnings: list[str]
    reward: Reward
    tokenizer: Tokenizer
    stop_token_ids: list[int]
    vocab: int  # ids from here on belong to no token
    source: ModelSource
    opening: list[str]  # lines that show what the run is about to do
    plan: MemoryPlan


@dataclass(frozen=True, slots=True)
class Actor:
    """A policy and the engine that samples from its weights."""

    policy: Policy
    engine: Engine


def prepare(config: Config, *, is_resumed: bool = False) -> Inputs:
    """Check everything and read the data. Raises InputError; changes nothing on disk.

    is_resumed   the run that output_dir holds goes on
    """
    check_output_dir(config, is_resumed=is_resumed)
    _check_save_best(config)
    objective_of(config.objective, config.sampling.max_completion_length)  # its numbers
    keys = config.data
    rows = _rows(config, keys.data, "data")
    eval_data = config.eval.eval_data
    eval_rows = _rows(config, eval_data, "eval_data") if eval_data else []
    reward = _reward(config)
    drop = config.reward.drop_bad_golds
    rows = reward.check_rows(rows, drop_bad_golds=drop)
    with _named("eval_data"):
        eval_rows = reward.check_rows(eval_rows, drop_bad_golds=drop)
    notes = trial_calls([p for p, _ in reward.parts], rows, config.sampling.num_generations)
    resolve_engine(config.engine.engine)
    source = find_source(config.model, config.lora)
    model = source.keys.model
    tokenizer = load_tokenizer(model)
    check_quantizable(source, model_config(model))
    _check_logits_dtype(config, source)
    check_adapter(source)
    check_saveable(model, tokenizer)
    prompts = load_prompts(rows, keys, tokenizer)
    with _named("eval_data"):
        eval_prompts = load_prompts(eval_rows, keys, tokenizer, limit=config.eval.eval_num_prompts)
    stops = stop_token_ids(model, tokenizer, turn_end_ids(keys, tokenizer))
    vocab, num_rows = vocabulary(model, tokenizer, stops)
    _check_token_ids([*prompts, *eval_prompts], num_rows)
    limit, num_eval = keys.max_prompt_length, len(eval_rows[: config.eval.eval_num_prompts])
    return Inputs(
        prompts=prompts,
        eval_prompts=eval_prompts,
        warnings=[
            *data_warnings(rows, eval_rows),
            *template_warnings(keys, tokenizer),
            *dropped_line("data", len(rows), len(prompts), limit),
            *dropped_line("eval_data", num_eval, len(eval_prompts), limit),
            *_offload_warnings(config),
            *notes,
        ],
        reward=reward,
        tokenizer=tokenizer,
        stop_token_ids=stops,
        vocab=vocab,
        source=source,
        opening=opening_lines(config, prompts, tokenizer, stops, (vocab, num_rows)),
        plan=plan_of(config, [*prompts, *eval_prompts], vocab=vocab),
    )


def _check_save_best(config: Config) -> None:
    """It names a k that evaluations during the run measure."""
    name, keys = config.save.save_best, config.eval
    if name is None:
        return
    names = [f"pass_at_{k}" for k in default_ks(keys.eval_num_samples)]
    if name not in names:
        raise InputError(
            f"save_best: expected one of {', '.join(names)} (eval_num_samples "
            f"{keys.eval_num_samples}), got {name!r}"
        )
    if not keys.eval_rounds:
        raise InputError("save_best: needs eval_rounds; without it only start and end are measured")


@contextmanager
def _named(key: str) -> Iterator[None]:
    """What is said of "data" is said of `key`, the setting that names these rows."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^data: ", f"{key}: ", str(error))) from error.__cause__


def _reward(config: Config) -> Reward:
    keys = config.reward
    return load_reward(
        keys.reward,
        weights=keys.reward_weights,
        correct_by=keys.correct_by,
        timeout_s=keys.reward_timeout_s,
        extract=keys.extract,
        unsafe=keys.unsafe,
        mask_truncated=keys.mask_truncated_completions,
    )


def _rows(config: Config, data: str, key: str) -> list[dict]:
    """The rows of `data`; those for functions of the user's own need no answer."""
    return read_rows(
        data,
        key=key,
        prompt_column=config.data.prompt_column,
        answer_column=config.data.answer_column,
        needs_answer=bool(config.reward.built_in),
    )


def _check_token_ids(prompts: list[Prompt], num_rows: int) -> None:
    for prompt in prompts:
        if max(prompt.token_ids) >= num_rows:
            raise InputError(
                f"model: its tokenizer gives token {max(prompt.token_ids)} in row {prompt.id!r}, "
                f"expected ids below vocab_size {num_rows}; tokenizer and weights do not belong "
                "together, or tokens were added without rows"
            )


def _check_logits_dtype(config: Config, source: ModelSource) -> None:
    engine = resolve_engine(config.engine.engine)
    is_quantised = hasattr(model_config(source.keys.model), "quantization_config")
    if is_quantised and config.model.logits_dtype != "auto" and engine == "vllm":
        raise InputError(
            "logits_dtype: expected auto beside engine: vllm and a quantised checkpoint, whose "
            f"head vLLM computes in its own way, got {config.model.logits_dtype}; remove it, or "
            "set engine: transformers"
        )


def _offload_warnings(config: Config) -> list[str]:
    keys = config.memory
    if torch.cuda.is_available() or (
        keys.offload == "none" and keys.activation_offload is not True
    ):
        return []
    return ["offload: this run is on the CPU, whose memory is the host's: it takes more, not less"]


def build_actor(config: Config, inputs: Inputs) -> Actor:
    """Load the policy and start the engine on its weights."""
    if config.run.cpu_threads:
        torch.set_num_threads(config.run.cpu_threads)  # vLLM freezes the number when it starts
    plan, source = inputs.plan, inputs.source
    policy = load_policy(
        source.keys,
        source.shape,
        gradient_checkpointing=plan.is_checkpointed,
        is_empty=_engine_loads(config.engine, source),
    )
    max_model_len = config.data.max_prompt_length + config.sampling.max_completion_length
    check_context(policy, max_model_len)
    engine = build_engine(
        config.engine,
        source.keys.model,
        policy,
        inputs.tokenizer,
        stop_token_ids=inputs.stop_token_ids,
        max_model_len=max_model_len,
        kv_cache_bytes=plan.kv_bytes,
        adapter=source.shape,
        vocab=inputs.vocab,
        logits_dtype=logits_dtype(config.model),
        seed=config.run.seed,
    )
    if source.adapter_folder:
        load_adapter(policy, source.adapter_folder)
    else:
        init_adapters(policy, config.run.seed)
    engine.weights_updated()
    return Actor(policy, engine)


def _engine_loads(keys: EngineKeys, source: ModelSource) -> bool:
    """Whether the engine reads the checkpoint and the policy is bound to its tensors."""
    is_plain = not hasattr(model_config(source.keys.model), "quantization_config")
    return resolve_engine(keys.engine) == "vllm" and keys.share_weights and is_plain
