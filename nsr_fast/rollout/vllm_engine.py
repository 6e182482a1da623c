"""vLLM inside the trainer's process: token ids in, completions with sampled logprobs out.

It uses two public doors into the engine's model, `apply_model` and `collective_rpc`, and the
request loop `add_request` / `step`, so that results arrive as sequences finish. vLLM is imported
only in this folder's vllm_*.py.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from nsr_fast.errors import EngineFailure, GuardStop
from nsr_fast.model.load import Policy, Tokenizer
from nsr_fast.rollout.budget import BudgetMeter
from nsr_fast.rollout.vllm_memory import KvCacheTurns
from nsr_fast.rollout.vllm_start import mask_logits, start_vllm
from nsr_fast.rollout.weights import EngineWeights
from nsr_fast.types import PLAIN, AdapterShape, Budget, Prompt, Rollout, Sampling

_WAIT_FOR_ALL = Budget()


class VllmEngine:
    """One vLLM engine whose weights are the policy's own; see Engine for the methods.

    model_dir   local checkpoint directory or hub name
    policy     the transformers model to train, also on the meta device; its parameters become views
               into the engine
    share       False: the engine keeps its own copy, refreshed by weights_updated
    stop_token_ids  every id that ends a completion
    vocab, adapter, logits_dtype  as in build_engine
    """

    _is_alive = False  # vLLM's process-wide groups serve one engine at a time

    def __init__(
        self,
        model_dir: str,
        policy: Policy,
        tokenizer: Tokenizer,
        *,
        stop_token_ids: Sequence[int],
        max_model_len: int,
        max_num_seqs: int,
        vocab: int | None = None,
        share: bool = True,
        seed: int = 0,
        gpu_memory_utilization: float = 0.3,
        kv_cache_bytes: int | None = None,
        adapter: AdapterShape = PLAIN,
        logits_dtype: torch.dtype | None = None,
    ):
        if VllmEngine._is_alive:
            raise RuntimeError("one vLLM engine a process at a time: close() the other one first")
        self._tokenizer = tokenizer
        self._stop_token_ids = sorted(set(stop_token_ids))
        self._num_calls = 0
        self._has_failed = False
        self._set_num_threads = torch.set_num_threads  # vLLM on the CPU puts a no-op in its place
        self._llm = start_vllm(
            model_dir,
            policy,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            seed=seed,
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_bytes=kv_cache_bytes,
            adapter=adapter,
            logits_dtype=logits_dtype,
        )
        VllmEngine._is_alive = True
        self._weights = self._turns = None
        try:
            if vocab is not None:
                self._llm.apply_model(partial(mask_logits, vocab=vocab))
            self._weights = EngineWeights(self._llm, policy, share=share)
            if torch.cuda.is_available():
                self._turns = KvCacheTurns(self._llm)
            self.weights_updated()
        except BaseException:
            self.close()
            raise
        self.notes = [self._weights.note]
        if self._turns is None:
            self.notes.append("memory: on the CPU the KV cache is kept during the update")

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        budget: Budget = _WAIT_FOR_ALL,
    ) -> Iterator[tuple[int, int, Rollout]]:
        """Yield (index of the prompt, index of the sample, rollout) in the order of finishing."""
        engine, meter = self._llm.llm_engine, BudgetMeter(budget)
        self._num_calls += 1
        index_of = {f"nsr-{self._num_calls}-{i}": i for i in range(len(prompts))}
        running = {
            (i, j): _Partial(prompts[i]) for i in index_of.values() for j in _samples(sampling)
        }
        try:
            for (request_id, index), seed in zip(index_of.items(), seeds, strict=True):
                token_ids = list(prompts[index].token_ids)
                params = self._sampling_params(sampling, seed)
                engine.add_request(request_id, {"prompt_token_ids": token_ids}, params)
            while running and not meter.is_spent():
                for output in self._step():
                    for part in output.outputs:
                        key = index_of[output.request_id], part.index
                        meter.num_tokens += running[key].extend(part)
                        if part.finish_reason:
                            yield *key, running.pop(key).rollout(self._tokenizer)
            for key, partial in running.items():
                yield *key, partial.rollout(self._tokenizer)
        finally:  # also when the caller stops early
            if not self._has_failed:
                engine.abort_request(list(index_of))
                while engine.has_unfinished_requests():
                    engine.step()

    def weights_updated(self) -> None:
        """Call after every update: proves that the engine holds the new weights and drops its
        prefix cache, which belongs to the old ones. Raises GuardStop when a weight differs."""
        self._weights.check()
        if not self._llm.reset_prefix_cache():
            raise GuardStop("stale prefix cache: the engine refused to drop it (requests running?)")

    def release_memory(self) -> dict[str, float]:
        """Give the KV cache's memory to the update (CUDA); {} on the CPU."""
        return self._turns.release() if self._turns else {}

    def regain_memory(self) -> dict[str, float]:
        """Map the KV cache again, before the next generate."""
        return self._turns.regain() if self._turns else {}

    def close(self) -> None:
        """Shut the engine down; a second engine may be built in this process afterwards."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm, self._weights, self._turns
        gc.collect()
        cleanup_dist_env_and_memory()
        torch.set_num_threads = self._set_num_threads
        VllmEngine._is_alive = False

    def _step(self) -> list:
        engine = self._llm.llm_engine
        if not engine.has_unfinished_requests():
            raise EngineFailure("engine: vLLM dropped requests without a result")
        try:
            return engine.step()
        except Exception as error:  # whatever vLLM raises: the run cannot go on without it
            self._has_failed = True
            first_line = (str(error).strip() or "no message").splitlines()[0]
            raise EngineFailure(
                f"engine: vLLM failed while generating: {type(error).__name__}: {first_line}"
            ) from error

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
            logprobs=0,  # the sampled token's
            flat_logprobs=True,
            stop_token_ids=self._stop_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _samples(sampling: Sampling) -> range:
    return range(sampling.num_generations)


@dataclass(slots=True)
class _Partial:
    """A completion while it grows."""

    prompt: Prompt
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "cut"

    def extend(self, part) -> int:
        """Add a delta of vLLM's; the number of new tokens."""
        self.token_ids.extend(part.token_ids)
        self.logprobs.extend(part.logprobs.logprobs)
        self.finish_reason = part.finish_reason or "cut"
        return len(part.token_ids)

    def rollout(self, tokenizer: Tokenizer) -> Rollout:
        text = tokenizer.decode(self.token_ids, skip_special_tokens=True)
        ids, logprobs = tuple(self.token_ids), tuple(self.logprobs)
        return Rollout(self.prompt, ids, logprobs, text, self.finish_reason)
