"""Engines: token ids in, sampled completions with logprobs out, on the trainer's own weights."""

from nsr_fast.rollout.rollout import Group, Rollout, Sampling

__all__ = ["Group", "Rollout", "Sampling"]
