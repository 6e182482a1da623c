"""The second engine: transformers' generate on the policy's own module, for machines without vLLM.

One copy of the weights by construction, and no KV cache outlives a batch. A batch ends with its
slowest completion, so it is slower than vLLM. Sampling is ours, by inversion: every completion
takes its uniform numbers from its own seed, which transformers' samplers cannot do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nsr_fast.kernels.matmul import head_logits
from nsr_fast.model.load import Policy, Tokenizer
from nsr_fast.rollout.budget import BudgetMeter
from nsr_fast.types import Budget, Prompt, Rollout, Sampling

_WAIT_FOR_ALL = Budget()


class TransformersEngine:
    """See Engine for the methods. max_num_seqs completions are generated at once; `vocab` and
    `logits_dtype` as in build_engine."""

    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        *,
        stop_token_ids: Sequence[int],
        max_model_len: int,
        max_num_seqs: int,
        vocab: int | None = None,
        logits_dtype: torch.dtype | None = None,
    ):
        self._policy, self._tokenizer = policy, tokenizer
        self._stop_token_ids = sorted(set(stop_token_ids))
        self._max_model_len, self._max_num_seqs = max_model_len, max_num_seqs
        self._vocab, self._logits_dtype = vocab, logits_dtype
        self.notes = ["engine: transformers generates with the policy's module; vLLM is faster"]

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        budget: Budget = _WAIT_FOR_ALL,
    ) -> Iterator[tuple[int, int, Rollout]]:
        """Yield (index of the prompt, index of the sample, rollout), batch by batch."""
        if len(seeds) != len(prompts):
            raise ValueError(f"seeds: expected {len(prompts)}, one a prompt, got {len(seeds)}")
        meter = BudgetMeter(budget)
        keys = [(i, j) for i in range(len(prompts)) for j in range(sampling.num_generations)]
        keys.sort(key=lambda key: len(prompts[key[0]].token_ids))  # little padding
        for start in range(0, len(keys), self._max_num_seqs):
            batch = keys[start : start + self._max_num_seqs]
            row_seeds = [seeds[i] + j for i, j in batch]
            rollouts = self._batch([prompts[i] for i, _ in batch], sampling, row_seeds, meter)
            for key, rollout in zip(batch, rollouts, strict=True):
                yield *key, rollout

    def weights_updated(self) -> None:
        """Nothing is cached between rounds and nothing is copied."""

    def release_memory(self) -> dict[str, float]:
        """No KV cache is held between rounds."""
        return {}

    def regain_memory(self) -> dict[str, float]:
        """See release_memory."""
        return {}

    def close(self) -> None:
        """Nothing to shut down."""

    @torch.no_grad()
    def _batch(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        meter: BudgetMeter,
    ) -> list[Rollout]:
        if meter.is_spent():
            return [Rollout(prompt, (), (), "", "cut") for prompt in prompts]
        token_ids = [prompt.token_ids for prompt in prompts]
        longest = max(map(len, token_ids))
        length = min(sampling.max_completion_length, self._max_model_len - longest)
        device = self._policy.device
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in token_ids], device=device)
        mask = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in token_ids], device=device
        )
        sampler = _Sampler(sampling, seeds, length, device, self._vocab)
        watch = _BudgetWatch(meter, self._stop_token_ids, longest)
        with _generating(self._policy, self._logits_dtype) as model:
            out = model.generate(
                ids,
                attention_mask=mask,
                generation_config=self._settings(length),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([watch]),
            )
        rows = zip(prompts, out[:, longest:].tolist(), sampler.logprobs().tolist(), strict=True)
        return [self._rollout(*row, length) for row in rows]

    def _rollout(
        self, prompt: Prompt, token_ids: list[int], logprobs: list[float], length: int
    ) -> Rollout:
        ends = [i for i, token in enumerate(token_ids) if token in self._stop_token_ids]
        size = ends[0] + 1 if ends else len(token_ids)
        reason = "stop" if ends else "length" if size == length else "cut"
        text = self._tokenizer.decode(token_ids[:size], skip_special_tokens=True)
        return Rollout(prompt, tuple(token_ids[:size]), tuple(logprobs[:size]), text, reason)

    def _settings(self, length: int) -> GenerationConfig:
        stop = self._stop_token_ids
        return GenerationConfig(
            max_new_tokens=length, do_sample=False, eos_token_id=stop, pad_token_id=stop[0]
        )


class _Sampler(LogitsProcessor):
    """Draws each row's token by inversion of its own uniform numbers, and leaves only that one.

        token = first v with cdf_v > u_t,  cdf of softmax(truncate(logits / temperature))
    Temperature 0 takes the largest logit. Ids from `vocab` on do not exist.
    """

    def __init__(
        self,
        sampling: Sampling,
        seeds: Sequence[int],
        length: int,
        device: torch.device,
        vocab: int | None = None,
    ):
        self._temperature, self._vocab = sampling.temperature, vocab
        self._truncate = LogitsProcessorList()
        if sampling.top_k > 0:
            self._truncate.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self._truncate.append(TopPLogitsWarper(sampling.top_p))
        rows = [torch.rand(length, generator=torch.Generator().manual_seed(s)) for s in seeds]
        self._uniform = torch.stack(rows).double().to(device)
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        only_chosen = torch.full_like(scores, float("-inf"))
        scores = scores[:, : self._vocab].float()
        if self._temperature > 0:
            scores = self._truncate(input_ids, scores / self._temperature)
        logprob = scores.log_softmax(dim=-1)
        if self._temperature > 0:
            cdf = logprob.double().exp().cumsum(dim=-1)
            u = self._uniform[:, len(self._chosen)].unsqueeze(1) * cdf[:, -1:]
            token = torch.searchsorted(cdf, u, right=True).clamp(max=scores.shape[-1] - 1)
        else:
            token = scores.argmax(dim=-1, keepdim=True)
        self._chosen.append(logprob.gather(1, token))
        return only_chosen.scatter_(1, token, 0.0)

    def logprobs(self) -> Tensor:
        """[rows, steps] of the tokens drawn."""
        return torch.cat(self._chosen, dim=1)


class _BudgetWatch(StoppingCriteria):
    """Counts the tokens of the rows that have not ended; ends all when the budget is spent."""

    def __init__(self, meter: BudgetMeter, stop_token_ids: Sequence[int], prompt_length: int):
        self._meter, self._stops, self._start = meter, stop_token_ids, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        stops = torch.tensor(self._stops, device=input_ids.device)
        had_ended = torch.isin(input_ids[:, self._start : -1], stops).any(dim=1)
        self._meter.num_tokens += int((~had_ended).sum())
        return torch.full_like(had_ended, self._meter.is_spent())


@contextmanager
def _generating(policy: Policy, logits_dtype: torch.dtype | None) -> Iterator[Policy]:
    """The policy's module in inference form: plain attention, KV cache, logits in their dtype, and
    none of the sampling settings that its checkpoint may bring (transformers merges them into every
    call)."""
    head = policy.lm_head
    attention, was_training = policy.config._attn_implementation, policy.training
    uses_cache, own_settings = policy.config.use_cache, policy.generation_config
    policy.set_attn_implementation("sdpa")
    policy.config.use_cache, policy.generation_config = True, GenerationConfig()
    policy.eval()
    if logits_dtype not in (None, head.weight.dtype):
        head.forward = lambda hidden: head_logits(hidden, head.weight, head.bias, logits_dtype)
    try:
        yield policy
    finally:
        vars(head).pop("forward", None)
        policy.set_attn_implementation(attention)
        policy.config.use_cache, policy.generation_config = uses_cache, own_settings
        policy.train(was_training)
