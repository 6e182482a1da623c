"""Starting vLLM quietly inside this process, with memory settings that fit the device."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nsr_fast.memory.plan import CPU_BLOCK_TOKENS
from nsr_fast.model.layout import FAMILIES
from nsr_fast.model.load import Policy
from nsr_fast.types import AdapterShape

_CPU_BATCHED_TOKENS = 8192
_STREAM_INTERVAL = 16  # tokens between two reports on a running completion


def start_vllm(
    model_dir: str,
    policy: Policy,
    *,
    max_model_len: int,
    max_num_seqs: int,
    seed: int,
    gpu_memory_utilization: float,
    kv_cache_bytes: int | None,
    adapter: AdapterShape,
    logits_dtype: torch.dtype | None,
):
    """A vllm.LLM for token ids in and out, in this process, in the policy's dtype."""
    on_cpu = not torch.cuda.is_available()
    options = {"kv_cache_memory_bytes": kv_cache_bytes} if kv_cache_bytes else {}
    if on_cpu:  # a chunked prompt rewinds its seeded generator, which CPU generators cannot do
        options |= {
            "enforce_eager": True,
            "block_size": CPU_BLOCK_TOKENS,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, _CPU_BATCHED_TOKENS),
        }
    else:
        options |= {
            "enable_sleep_mode": True,
            "gpu_memory_utilization": gpu_memory_utilization,
        }
    llm_class = _import_vllm(on_cpu)
    is_known = policy.config.model_type in FAMILIES
    if is_known and not hasattr(policy.config, "quantization_config"):
        from nsr_fast.rollout.vllm_linear import engine_options

        options |= engine_options(adapter, logits_dtype)
    with _no_future_warnings():
        return llm_class(
            model=model_dir,
            dtype=str(policy.dtype).removeprefix("torch."),
            skip_tokenizer_init=True,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            stream_interval=_STREAM_INTERVAL,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            seed=seed,
            **options,
        )


def mask_logits(model: nn.Module, *, vocab: int) -> None:
    """Give ids from `vocab` on no probability, whatever the request: one fill a step, behind the
    model's own logits, so that sampling and logprobs see the masked distribution."""

    def mask(module: nn.Module, inputs: tuple, logits: Tensor | None) -> None:
        if logits is not None:
            logits[..., vocab:] = float("-inf")

    model.logits_processor.register_forward_hook(mask)


def _import_vllm(on_cpu: bool):
    """Import vLLM quietly, with its core in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("vllm").setLevel(logging.ERROR)  # for what it says before it reads the above
    with _no_future_warnings():
        from vllm.platforms import current_platform

        if on_cpu:  # 25 s of Inductor and g++ for one comparison kernel at the first generate
            current_platform.simple_compile_backend = "eager"
        from vllm import LLM
    return LLM


@contextmanager
def _no_future_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
