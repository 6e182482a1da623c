"""Random weighted rollouts for the tests."""

import torch

from nsr_fast.types import Prompt, Rollout


def make_rollouts(lengths, vocab_size=259, prompt_length=4, seed=0):
    """Sampler logprobs are 0, -1, -2, ... and weights 0.25, -1, 0.25, ..."""
    generator = torch.Generator().manual_seed(seed)
    rollouts = []
    for index, length in enumerate(lengths):
        ids = torch.randint(3, vocab_size, (prompt_length + length,), generator=generator).tolist()
        prompt = Prompt(str(index), "", tuple(ids[:prompt_length]), None, {})
        logprobs = tuple(-float(i) for i in range(length))
        rollout = Rollout(prompt, tuple(ids[prompt_length:]), logprobs, "", "stop")
        rollout.weight = -1.0 if index % 2 else 0.25
        rollouts.append(rollout)
    return rollouts
