"""Sequences for the tests of preparations."""

import torch

from nsr_fast.objective.preparation import Sequences

LENGTHS = (5, 1, 9, 3, 7)


def sequences(lengths=LENGTHS, *, seed: int = 0, spread: float = 0.4, **options) -> Sequences:
    """Random float64 sequences with every field, weights of one sign and size in each."""
    g = torch.Generator().manual_seed(seed)

    def normal(length: int) -> torch.Tensor:
        return torch.randn(length, generator=g, dtype=torch.float64)

    signs = [1.0 if i % 2 else -0.7 for i in range(len(lengths))]
    weight = [torch.full((n,), sign, dtype=torch.float64) for n, sign in zip(lengths, signs)]
    logprob = [-normal(n).abs() * 2 - 0.1 for n in lengths]
    near = [[(x + spread * normal(len(x))).clamp(max=-1e-3) for x in logprob] for _ in range(2)]
    share = [torch.full((n,), 0.5, dtype=torch.float64) for n in lengths]
    entropy = [normal(n).abs() for n in lengths]
    return Sequences(weight, logprob, entropy, *near, share, **options)
