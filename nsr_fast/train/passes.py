"""The passes of an update within the device's memory, and what survives when one does not fit.

No weight changes before optimizer.step(), so a pass out of memory costs the minibatch's gradients
and nothing else: they are dropped (the head's may hold the failed pass already), the tokens of a
pass halved, the minibatch packed and done again. One sequence that fails by itself turns gradient
checkpointing on; failing with it ends the run. The smaller number stays. The gradient is that of
the whole minibatch either way (train/step.py).
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from nsr_fast.errors import GuardStop
from nsr_fast.model.batch import MicroBatch, pack
from nsr_fast.model.load import Policy

_Result = TypeVar("_Result")
_CPU_WORDS = ("can't allocate memory", "not enough memory")  # torch's DefaultCPUAllocator


@dataclass(slots=True)
class PassBudget:
    """tokens of one pass, lowered by a failure; notes: what happened since they were read last."""

    tokens: int
    notes: list[str] = field(default_factory=list)
    num_failures: int = 0
    largest: int = 0  # tokens of the largest pass that was done since it was read last

    def read(self) -> tuple[list[str], int]:
        """(notes, largest pass) since the call before."""
        found = self.notes, self.largest
        self.notes, self.largest = [], 0
        return found

    def shrink(self, policy: Policy, batch: MicroBatch, reason: str) -> None:
        """Fewer tokens than `batch` has, or checkpointing. GuardStop where both are done."""
        self.num_failures += 1
        tokens = sum(batch.sequence_lengths)
        if len(batch.rollouts) > 1:
            self.tokens = max(1, tokens // 2)
            what = f"micro_batch_tokens is {self.tokens:,} from here on"
        elif not policy.is_gradient_checkpointing:
            policy.gradient_checkpointing_enable()
            what = "gradient_checkpointing is on from here on"
        else:
            raise GuardStop(
                f"memory: one sequence of {tokens:,} tokens does not fit, with "
                f"gradient_checkpointing ({reason}); lower max_completion_length"
            )
        self.notes.append(f"out of memory in a pass of {tokens:,} tokens: {what}")


def run_passes(
    policy: Policy,
    batches: Sequence[MicroBatch],
    run_pass: Callable[[MicroBatch], _Result],
    budget: PassBudget,
    drop: Callable[[], None],
) -> tuple[list[MicroBatch], list[_Result]]:
    """run_pass of every batch; (the batches as they were packed in the end, their results).

    drop     undoes what earlier passes left: the gradients
    Raises   GuardStop when a single sequence does not fit
    """
    while True:
        results: list[_Result] = []
        failed, reason = None, ""
        for batch in batches:
            try:
                results.append(run_pass(batch))
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not is_out_of_memory(error):
                    raise
                failed, reason = batch, (str(error).splitlines() or [""])[0][:120]
            if failed is not None:
                break
            budget.largest = max(budget.largest, sum(batch.sequence_lengths))
        if failed is None:
            return list(batches), results
        # Outside of the except block: the traceback held the graph of the failed pass.
        results.clear()
        drop()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget.shrink(policy, failed, reason)
        rollouts = [rollout for batch in batches for rollout in batch.rollouts]
        batches = pack(rollouts, budget.tokens, policy.device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA's own error, or torch's plain one where the CPU has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _CPU_WORDS)
