"""The parts of a run from its settings.

Everything that can be wrong with the input is found before a weight is loaded: output directory,
data, reward function, architecture, prompt lengths, in this order.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nsr_fast.config import Config
from nsr_fast.data import Prompt, load_prompts, read_rows
from nsr_fast.data.audit import data_warnings
from nsr_fast.errors import InputError
from nsr_fast.objective import Objective, by_name
from nsr_fast.reward import Reward, load_reward
from nsr_fast.rollout.engine import Engine, build_engine, resolve_engine
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.policy import load_policy, load_tokenizer, stop_token_ids
from nsr_fast.train.round import Learner
from nsr_fast.train.run_dir import check_output_dir
from nsr_fast.train.step import UpdateSettings
from nsr_fast.types import Budget, Sampling

_DRIFT_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads before it loads weights."""

    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    warnings: list[str]
    reward: Reward
    objective: Objective
    tokenizer: PreTrainedTokenizerBase


def prepare(config: Config) -> Inputs:
    """Check everything and read the data. Raises InputError; changes nothing on disk."""
    check_output_dir(config)
    rows = _rows(config, "data")
    eval_rows = _rows(config, "eval_data") if config.eval_data else []
    if config.eval_rounds and not config.eval_data:
        raise InputError("eval_rounds: needs eval_data, which is not given; add eval_data: FILE")
    reward = load_reward(
        config.reward,
        extract=config.extract,
        unsafe=config.unsafe,
        mask_truncated=config.mask_truncated_completions,
    )
    rows = reward.check_rows(rows, drop_bad_golds=config.drop_bad_golds)
    eval_rows = reward.check_rows(eval_rows, drop_bad_golds=config.drop_bad_golds)
    if config.objective == "w_reinforce":
        objective = Objective.w_reinforce(config.psr_weight)
    else:
        objective = by_name(config.objective)
    resolve_engine(config.engine)
    check_sampling(config)
    tokenizer = load_tokenizer(config.model)
    to_prompts = {
        "tokenizer": tokenizer,
        "template": config.template,
        "max_prompt_length": config.max_prompt_length,
    }
    return Inputs(
        prompts=load_prompts(rows, **to_prompts),
        eval_prompts=load_prompts(eval_rows, limit=config.eval_num_prompts, **to_prompts),
        warnings=data_warnings(rows, eval_rows),
        reward=reward,
        objective=objective,
        tokenizer=tokenizer,
    )


def _rows(config: Config, key: str) -> list[dict]:
    """The rows that `key` names."""
    data = getattr(config, key)
    try:
        return read_rows(data)
    except InputError as error:
        raise InputError(str(error).replace("data: ", f"{key}: ", 1)) from None


def build_learner(config: Config, inputs: Inputs) -> Learner:
    """Load the policy, start the engine on its weights, make the optimizer."""
    if config.cpu_threads:
        torch.set_num_threads(config.cpu_threads)  # vLLM freezes the number when it starts
    policy = load_policy(
        config.model, config.dtype, gradient_checkpointing=config.gradient_checkpointing
    )
    max_model_len = config.max_prompt_length + config.max_completion_length
    _check_context(policy.config, max_model_len)
    engine = _engine(config, policy, inputs.tokenizer, max_model_len)
    optimizer = PolicyOptimizer(
        policy.parameters(),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=config.warmup_steps,
        master_weights=config.master_weights,
        seed=config.seed,
    )
    return Learner(
        policy=policy,
        optimizer=optimizer,
        engine=engine,
        reward=inputs.reward,
        objective=inputs.objective,
        sampling=Sampling(
            config.num_generations,
            config.max_completion_length,
            config.temperature,
            config.top_p,
            config.top_k,
        ),
        budget=Budget(config.round_token_budget, config.round_seconds),
        update=UpdateSettings(
            temperature=config.temperature,
            minibatches=config.minibatches,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high or config.epsilon,
            importance_sampling_cap=config.importance_sampling_cap,
            entropy_coef=config.entropy_coef,
            micro_batch_tokens=config.micro_batch_tokens,
        ),
        drift_limit=config.drift_limit or _DRIFT_LIMIT[policy.dtype],
        seed=config.seed,
    )


def check_sampling(config: Config) -> None:
    """Truncated sampling excludes what compares the policy with the sampler."""
    is_truncated = config.top_p < 1.0 or config.top_k > 0
    if is_truncated and config.importance_sampling_cap is not None:
        raise InputError(
            f"top_p {config.top_p}, top_k {config.top_k}: with importance_sampling_cap expected "
            "top_p 1.0 and top_k 0, because the sampler's logprobs are then those of the kept "
            "tokens only and every ratio would be off; remove one of the keys"
        )
    if is_truncated and config.drift_limit is not None:
        raise InputError(
            f"drift_limit {config.drift_limit}: with top_p {config.top_p} and top_k {config.top_k} "
            "the sampler's logprobs are of another distribution and no limit can hold; remove it"
        )


def _engine(
    config: Config,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_model_len: int,
) -> Engine:
    return build_engine(
        config.engine,
        config.model,
        policy,
        tokenizer,
        stop_token_ids=stop_token_ids(policy, tokenizer),
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        share=config.share_weights,
        seed=config.seed,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_bytes=int(config.kv_cache_gib * 2**30) if config.kv_cache_gib else None,
    )


def _check_context(model_config, max_model_len: int) -> None:
    limit = model_config.max_position_embeddings
    if max_model_len > limit:
        raise InputError(
            f"max_prompt_length + max_completion_length = {max_model_len} tokens, the model takes "
            f"{limit} (max_position_embeddings); lower one of the two"
        )
