"""vLLM inside the trainer's process: token ids in, completions with sampled logprobs out.

The only file that imports vLLM. It uses two public doors into the engine's model, `apply_model` and
`collective_rpc`, and the request loop `add_request` / `step`, so results arrive as they finish.
"""

import gc
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nsr_fast.data.prompt import Prompt
from nsr_fast.errors import GuardStop
from nsr_fast.rollout.rollout import Group, Rollout, Sampling
from nsr_fast.rollout.shared_weights import (
    adopt_plain_weights,
    check_shared,
    copy_weights,
    share_weights,
)

_CPU_BLOCK_TOKENS = 128
_CPU_BATCHED_TOKENS = 8192
_CPU_KV_LIMIT_BYTES = 4 << 30


class VllmEngine:
    """One vLLM engine whose weights are the trainer's own.

    model_dir   local checkpoint directory or hub name
    trainer     the transformers model to train; its parameters become views into the engine
    share       False: the engine keeps its own copy, refreshed by weights_updated
    stop_token_ids  every id that ends a completion
    """

    def __init__(
        self,
        model_dir: str,
        trainer: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_token_ids: Sequence[int],
        max_model_len: int,
        max_num_seqs: int,
        share: bool = True,
        seed: int = 0,
        gpu_memory_utilization: float = 0.3,
        kv_cache_bytes: int | None = None,
    ):
        self._trainer, self._tokenizer, self._is_shared = trainer, tokenizer, share
        self._stop_token_ids = sorted(set(stop_token_ids))
        self._next_request = 0
        on_cpu = not torch.cuda.is_available()
        if kv_cache_bytes is None and on_cpu:
            kv_cache_bytes = _cpu_kv_cache_bytes(trainer.config, max_model_len, max_num_seqs)
        memory = (
            {"kv_cache_memory_bytes": kv_cache_bytes}
            if kv_cache_bytes
            else {"gpu_memory_utilization": gpu_memory_utilization}
        )
        if on_cpu:  # a chunked prompt rewinds its seeded generator, which CPU generators cannot do
            memory |= {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(max_model_len, _CPU_BATCHED_TOKENS),
            }
        llm_class = _import_vllm(on_cpu)
        with _no_future_warnings():
            self._llm = llm_class(
                model=model_dir,
                dtype=str(trainer.dtype).removeprefix("torch."),
                skip_tokenizer_init=True,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                enforce_eager=on_cpu,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=seed,
                **memory,
            )
        if share:
            self._bindings = self._apply(lambda model: share_weights(model, trainer))
        else:
            self._apply(lambda model: adopt_plain_weights(model, trainer.state_dict()))
        self.weights_updated()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Group]]:
        """Yield (index of the prompt, its group) in the order in which groups finish."""
        engine, index_of = self._llm.llm_engine, {}
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            request_id = f"nsr-{self._next_request}"
            self._next_request += 1
            index_of[request_id] = index
            engine.add_request(
                request_id,
                {"prompt_token_ids": list(prompt.token_ids)},
                self._sampling_params(sampling, seed),
            )
        while index_of:
            if not engine.has_unfinished_requests():
                raise GuardStop(f"engine: {len(index_of)} requests ended without a result")
            for output in engine.step():
                if output.finished:
                    index = index_of.pop(output.request_id)
                    yield index, self._group(prompts[index], output.outputs)

    def weights_updated(self) -> None:
        """Call after every optimizer step: proves that the engine holds the new weights and drops
        its prefix cache, which belongs to the old ones. Raises GuardStop when a weight differs."""
        if self._is_shared:
            check_shared(self._bindings)
        else:
            self._apply(lambda model: copy_weights(model, self._trainer))
        if not self._llm.reset_prefix_cache():
            raise GuardStop("stale prefix cache: the engine refused to drop it (requests running?)")

    def close(self) -> None:
        """Shut the engine down; a second engine may be built in this process afterwards."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def _apply(self, function):
        return self._llm.apply_model(function)[0]

    def _sampling_params(self, sampling: Sampling, seed: int):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=sampling.num_generations,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_completion_length,
            seed=seed,
            logprobs=0,
            flat_logprobs=True,
            stop_token_ids=self._stop_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _group(self, prompt: Prompt, outputs: Sequence) -> Group:
        texts = self._tokenizer.batch_decode(
            [o.token_ids for o in outputs], skip_special_tokens=True
        )
        return Group(
            prompt,
            tuple(
                Rollout(tuple(o.token_ids), tuple(o.logprobs.logprobs), text, o.finish_reason)
                for o, text in zip(outputs, texts, strict=True)
            ),
        )


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


def _cpu_kv_cache_bytes(config, max_model_len: int, max_num_seqs: int) -> int:
    """Room for `max_num_seqs` full sequences in float32, at most 4 GiB."""
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    token_bytes = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    blocks = max_num_seqs * math.ceil(max_model_len / _CPU_BLOCK_TOKENS) + 8
    return min(blocks * _CPU_BLOCK_TOKENS * token_bytes, _CPU_KV_LIMIT_BYTES)
