"""What an engine takes and returns: token ids in, sampled completions with their logprobs out."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from nsr_fast.data.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `logprob`s are those of the tempered, truncated distribution."""

    num_generations: int
    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off

    @property
    def is_truncated(self) -> bool:
        """Some tokens cannot be drawn, so a sampler logprob exceeds that of the full softmax."""
        return self.top_p < 1.0 or self.top_k > 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion."""

    token_ids: tuple[int, ...]  # the stop token included
    sampler_logprob: tuple[float, ...]  # one per token, natural log, as the engine sampled it
    text: str  # decoded without special tokens
    finish_reason: str  # "stop" | "length" | "cut": a straggler that the budget ended


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt in one round."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop waiting for stragglers: tokens sampled in all, seconds; None: wait for all."""

    max_tokens: int | None = None
    max_seconds: float | None = None


@dataclass(slots=True)
class BudgetMeter:
    """Counts what one call of generate has used of its budget."""

    budget: Budget
    num_tokens: int = 0
    _started: float = field(default_factory=time.monotonic)

    def is_spent(self) -> bool:
        tokens, seconds = self.budget.max_tokens, self.budget.max_seconds
        if tokens is not None and self.num_tokens >= tokens:
            return True
        return seconds is not None and time.monotonic() - self._started >= seconds


def whole_groups(
    prompts: Sequence[Prompt], stream: Iterable[tuple[int, int, Rollout]], num_generations: int
) -> Iterator[tuple[int, Group]]:
    """Regroup an engine's stream: a prompt's index and group, once its last rollout is there."""
    waiting: dict[int, dict[int, Rollout]] = {}
    for index, sample, rollout in stream:
        held = waiting.setdefault(index, {})
        held[sample] = rollout
        if len(held) == num_generations:
            del waiting[index]
            yield index, Group(prompts[index], tuple(held[i] for i in range(num_generations)))


def sampling_seed(run_seed: int, stream: str, round_index: int, prompt_index: int) -> int:
    """A 62-bit seed of its own for every (run, stream, round, prompt).

    The completions of one prompt get the seeds s, s + 1, ...; prompts that share a seed share their
    noise, so neighbouring prompts must not get neighbouring seeds.
    """
    key = f"{run_seed}/{stream}/{round_index}/{prompt_index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 2
