"""The run's settings: one YAML file, any key overridden on the command line, every value checked.

Names follow TRL where TRL has one. Two numbers set the batch: prompts_per_round and
num_generations; micro-batching is automatic. An unknown key or a wrong value is one InputError.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nsr_fast.errors import InputError


class Config(BaseModel):
    """All keys with their defaults; `nsr-fast train --help` prints this table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="local checkpoint directory or hub name (Qwen2, Qwen3, Llama)")
    data: str = Field(description="JSONL, JSONL.gz or parquet file, or a `datasets` name")
    output_dir: str = Field(min_length=1, description="run directory; must not hold a run yet")
    overwrite: bool = Field(False, description="replace the run that output_dir holds")
    dry_run: bool = Field(False, description="check settings and data, print them, load no model")

    objective: Literal["psr", "nsr", "w_reinforce", "reinforce"] = Field(
        "nsr", description="which sign of the reward is trained on, and how strongly"
    )
    psr_weight: float = Field(0.1, ge=0, description="lambda of w_reinforce: weight of a correct")
    reward: str = Field(
        "math", description="math, countdown, code, module:function or file.py:function"
    )
    extract: Literal["boxed", "lenient", "paper"] = Field(
        "boxed", description="math: the last box; else a stated answer; or the paper's own rule"
    )
    drop_bad_golds: bool = Field(
        False, description="drop rows whose answer does not verify against itself, or bad tests"
    )
    unsafe: bool = Field(
        False, description="run the programs of the code reward without a sandbox if none works"
    )
    mask_truncated_completions: bool = Field(
        False, description="a completion without an end is unscored instead of graded"
    )
    template: Literal["chat", "qwen", "qwen3_no_thinking", "llama", "none"] = Field(
        "chat", description="prompt template; chat = the tokenizer's own, none = the raw prompt"
    )

    prompts_per_round: int = Field(64, ge=1, description="B: prompts sampled each round")
    num_generations: int = Field(8, ge=1, description="G: rollouts of each prompt")
    max_rounds: int = Field(100, ge=1, description="rounds (generate, then update) to run")
    max_prompt_length: int = Field(1024, ge=1, description="tokens; a longer prompt is an error")
    max_completion_length: int = Field(2048, ge=1, description="tokens sampled at most")
    temperature: float = Field(1.0, gt=0, description="of sampling and of the trained logprobs")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling; below 1 the drift limit is off"
    )
    top_k: int = Field(0, ge=0, description="sample from the k likeliest; 0: all, see top_p")
    round_token_budget: int | None = Field(
        None, ge=1, description="cut the stragglers once a round has sampled so many tokens"
    )
    round_seconds: float | None = Field(
        None,
        gt=0,
        description="cut them after so long; cut ones are unscored, which favours short ones",
    )

    learning_rate: float = Field(1e-6, gt=0, description="constant after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping, global norm")
    master_weights: Literal["device", "host", "stochastic"] = Field(
        "device", description="float32 copies of bfloat16 weights; stochastic: rounding, no copies"
    )
    minibatches: int = Field(1, ge=1, description="optimizer steps a round (1 = on-policy)")
    epsilon: float = Field(0.2, gt=0, description="PPO clip range when minibatches > 1")
    epsilon_high: float | None = Field(None, gt=0, description="upper clip range; none: epsilon")
    importance_sampling_cap: float | None = Field(
        None, gt=0, description="weight tokens by min(policy / sampler, cap); none: off"
    )
    entropy_coef: float = Field(0.0, ge=0, description="entropy bonus on the trained tokens")
    micro_batch_tokens: int = Field(16384, ge=1, description="tokens packed into one pass")
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward")

    eval_data: str | None = Field(None, description="problems for Pass@k, formats as data")
    eval_rounds: int = Field(0, ge=0, description="evaluate every N rounds; 0: start and end only")
    eval_num_prompts: int | None = Field(None, ge=1, description="first N problems; none: all")
    eval_num_samples: int = Field(16, ge=1, description="samples per problem, the largest k")
    eval_temperature: float = Field(1.0, gt=0)
    eval_top_p: float = Field(1.0, gt=0, le=1)

    save_rounds: int = Field(0, ge=0, description="checkpoint every N rounds; 0: the last only")
    sample_rollouts: int = Field(8, ge=0, description="rollouts written to rollouts/ each round")
    drift_limit: float | None = Field(
        None, gt=0, description="mean |policy - sampler| logprob that stops the run; none: by dtype"
    )
    seed: int = Field(0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, float32 on the CPU"
    )
    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="what samples the rollouts; auto: vllm where installed"
    )
    share_weights: bool = Field(
        True, description="vLLM computes with the trainer's tensors; false: with its own copy"
    )
    max_num_seqs: int = Field(256, ge=1, description="sequences the engine decodes at once")
    gpu_memory_utilization: float = Field(0.5, gt=0, lt=1, description="the engine's GPU share")
    kv_cache_gib: float | None = Field(None, gt=0, description="fixed KV cache size; none: auto")
    cpu_threads: int | None = Field(None, ge=1, description="none: torch's default")


def load_config(file: str | None, overrides: Mapping[str, str]) -> Config:
    """Read FILE (YAML) and apply `overrides` (key -> text, as typed on the command line)."""
    values = _read_yaml(file) if file else {}
    values |= {key: _from_text(key, text) for key, text in overrides.items()}
    for key in values:
        if key not in Config.model_fields:
            near = difflib.get_close_matches(key, Config.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `nsr-fast train --help`"
            raise InputError(f"unknown key {key!r}{_where(key, file, overrides)}; {hint}")
    try:
        return Config(**values)
    except ValidationError as error:
        raise InputError(_one_line(error, file, overrides)) from None


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`--key value` and `--key=value` pairs; anything else is an InputError."""
    overrides, rest = {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise InputError(f"expected --key value, got {word!r}")
        key, has_value, value = word[2:].partition("=")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                value = "true" if _is_boolean(key.replace("-", "_")) else "VALUE"
                raise InputError(f"--{key}: a value is missing; write --{key} {value}")
            value = rest.pop(0)
        key = key.replace("-", "_")
        if key in overrides:
            raise InputError(f"--{key} is given twice")
        overrides[key] = value
    return overrides


def config_help() -> str:
    """One aligned line per key: name, default, meaning."""
    lines = []
    for name, field in Config.model_fields.items():
        default = "required" if field.is_required() else field.default
        lines.append(f"  --{name:24} {default!s:10} {field.description or ''}".rstrip())
    return "\n".join(lines)


def _is_boolean(key: str) -> bool:
    field = Config.model_fields.get(key)
    return field is not None and field.annotation is bool


def _from_text(key: str, text: str) -> str | None:
    """none and null mean "not set" for the keys that may be unset; "none" is also a template."""
    field = Config.model_fields.get(key)
    is_optional = field is not None and type(None) in get_args(field.annotation)
    return None if is_optional and text in ("none", "null") else text


def _read_yaml(file: str) -> dict:
    path = Path(file)
    if not path.is_file():
        raise InputError(f"--config {file}: no such file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"--config {file}: not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"--config {file}: expected `key: value` lines")
    return values


def _where(key: str, file: str | None, overrides: Mapping[str, str]) -> str:
    return " on the command line" if key in overrides else f" in {file}"


def _one_line(error: ValidationError, file: str | None, overrides: Mapping[str, str]) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{key}: required, not given; add `{key}: ...` to the config or --{key} VALUE"
    expected = first["msg"].removeprefix("Input should be ")
    meaning = Config.model_fields[key].description
    note = f" ({meaning})" if meaning else ""
    return f"{key}: expected {expected}{note}, got {first['input']!r}{_where(key, file, overrides)}"
