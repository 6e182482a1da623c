"""Runs that meet a guard on purpose, and what of a run shows that it was met."""

import dataclasses
import importlib
import re
from contextlib import contextmanager

import pytest
import torch
from cli import seams


def written(text, finish_reason="stop"):
    """An engine whose completions all read `text` (with {answer} of the row and {j} the sample)."""

    def change(call, stream):
        for prompt, sample, rollout in stream:
            said = text.format(answer=call.prompts[prompt].answer, j=sample)
            yield (
                prompt,
                sample,
                dataclasses.replace(rollout, text=said, finish_reason=finish_reason),
            )

    return change


def of_tokens(*sizes):
    """An engine whose completions are 5, 6, 5, ...: sizes[n] of them in its n-th training call."""
    sizes = list(sizes)

    def change(call, stream):
        size = sizes.pop(0) if call.is_training else 1
        for prompt, sample, rollout in stream:
            numbers = {"token_ids": (5, 6) * (size // 2) + (5,) * (size % 2)}
            numbers["sampler_logprob"] = (-1.0,) * size
            yield prompt, sample, dataclasses.replace(rollout, finish_reason="stop", **numbers)

    return change


def shifted(*offsets):
    """An engine whose logprobs are off by offsets[n] in its n-th training call."""
    offsets = list(offsets)

    def change(call, stream):
        offset = offsets.pop(0) if call.is_training else 0.0
        for prompt, sample, rollout in stream:
            logprob = tuple(value + offset for value in rollout.sampler_logprob)
            yield prompt, sample, dataclasses.replace(rollout, sampler_logprob=logprob)

    return change


@contextmanager
def changed_learner(change):
    """`change(learner)` sees every run's parts before its first round."""
    module, name = seams.BUILD_LEARNER.rsplit(".", 1)
    real = getattr(importlib.import_module(module), name)

    def build(*arguments):
        learner = real(*arguments)
        change(learner)
        return learner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seams.BUILD_LEARNER, build)
        yield


def broken_gradient(*passes, value=float("nan")):
    """For changed_learner: the final norm's gradient is `value` in these passes, from 1."""
    seen = []

    def hook(gradient):
        seen.append(1)
        return torch.full_like(gradient, value) if len(seen) in passes else gradient

    return lambda learner: learner.policy.model.norm.weight.register_hook(hook)


def guard_lines(run):
    """(guard, action) of every line that a guard printed."""
    return re.findall(r"\bguard (\w+) \((\w+)\)", run.out)


def met(metrics):
    """The guards that a line of metrics.jsonl names."""
    return [name.removeprefix("guards/") for name in metrics if name.startswith("guards/")]


def same_weights(a, b):
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
