"""What every engine offers, which of them works here, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from typing import TYPE_CHECKING, Protocol

from nsr_fast.config_run import EngineKeys
from nsr_fast.errors import InputError
from nsr_fast.types import PLAIN, AdapterShape, Budget, Prompt, Rollout, Sampling

if TYPE_CHECKING:
    import torch

    from nsr_fast.model.load import Policy, Tokenizer


class Engine(Protocol):
    """Samples from the policy's weights; one rollout phase and one update take turns."""

    notes: Sequence[str]  # what the user should know, each said once

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        budget: Budget = Budget(),  # noqa: B008 (frozen)
    ) -> Iterator[tuple[int, int, Rollout]]:
        """Yield (index of the prompt, index of the sample, rollout) in the order of finishing.

        Sample j of prompt i draws its noise from seeds[i] + j, whatever else is in the batch. When
        the budget is spent the unfinished ones come with finish_reason "cut".
        """

    def release_memory(self) -> Mapping[str, float]:
        """Before the update: give back what only generation needs. Numbers for the metrics."""

    def regain_memory(self) -> Mapping[str, float]:
        """After the update: undo release_memory. Numbers for the metrics."""

    def weights_updated(self) -> None:
        """After every update: prove that the engine holds the new weights, forget what was cached
        under the old ones. Raises GuardStop when a weight differs."""

    def close(self) -> None:
        """Shut down; another engine may be built in this process afterwards."""


def engine_reasons() -> dict[str, str | None]:
    """Every engine by name: None if it can be used on this machine, else the reason as text."""
    vllm = None
    if util.find_spec("vllm") is None:
        vllm = 'vllm is not installed: pip install "nsr_fast[cuda]" (or [cpu] without a GPU)'
    return {"vllm": vllm, "transformers": None}


def resolve_engine(name: str) -> str:
    """ "auto" is vllm where installed. Raises InputError for an engine that is not there."""
    reasons = engine_reasons()
    if name == "auto":
        return next(engine for engine, reason in reasons.items() if reason is None)
    if reasons[name]:
        raise InputError(f"engine: {reasons[name]}; or use engine: transformers")
    return name


def build_engine(
    keys: EngineKeys,
    model_dir: str,
    policy: Policy,
    tokenizer: Tokenizer,
    *,
    stop_token_ids: Sequence[int],
    max_model_len: int,
    kv_cache_bytes: int | None = None,
    adapter: AdapterShape = PLAIN,
    vocab: int | None = None,
    logits_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Engine:
    """The engine that `keys` names, on the policy's weights.

    model_dir       local checkpoint directory or hub name
    stop_token_ids  every id that ends a completion
    max_model_len   tokens of prompt and completion together
    kv_cache_bytes  of vLLM's KV cache; None: the size that vLLM chooses
    adapter         of the policy: the engine's layers have the same
    vocab           ids from here on belong to no token and are never sampled; None: all may be
    logits_dtype    of the head's logits; None: that of the policy
    """
    sizes = {
        "stop_token_ids": stop_token_ids,
        "max_model_len": max_model_len,
        "max_num_seqs": keys.max_num_seqs,
        "vocab": vocab,
        "logits_dtype": logits_dtype,
    }
    if resolve_engine(keys.engine) == "transformers":
        from nsr_fast.rollout.transformers_engine import TransformersEngine

        return TransformersEngine(policy, tokenizer, **sizes)
    from nsr_fast.rollout.vllm_engine import VllmEngine

    return VllmEngine(
        model_dir,
        policy,
        tokenizer,
        **sizes,
        seed=seed,
        share=keys.share_weights,
        gpu_memory_utilization=keys.gpu_memory_utilization,
        kv_cache_bytes=kv_cache_bytes,
        adapter=adapter,
    )
