"""What an engine takes and returns: token ids in, sampled completions with their logprobs out."""

import hashlib
from dataclasses import dataclass

from nsr_fast.data.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `logprob`s are those of the tempered, truncated distribution."""

    num_generations: int
    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion."""

    token_ids: tuple[int, ...]  # the stop token included
    sampler_logprob: tuple[float, ...]  # one per token, natural log, as the engine sampled it
    text: str  # decoded without special tokens
    finish_reason: str  # "stop" | "length"


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt in one round."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


def sampling_seed(run_seed: int, stream: str, round_index: int, prompt_index: int) -> int:
    """A 62-bit seed of its own for every (run, stream, round, prompt).

    vLLM gives the completions of one request the seeds s, s + 1, ...; prompts that share a seed
    share their noise, so neighbouring prompts must not get neighbouring seeds.
    """
    key = f"{run_seed}/{stream}/{round_index}/{prompt_index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 2
