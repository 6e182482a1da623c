"""The ways to compute the head's loss that head_loss.py compares: ours, plain torch, and peers.

A method takes Inputs and leaves gradients in hidden.grad and weight.grad. `weighted` ones compute
-sum token_weight logprob; the others plain mean cross entropy, which is all their fast path offers.
Peers are imported when asked for; one that cannot run is returned as its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F

from nsr_fast.bench.timing import Inputs, Method
from nsr_fast.kernels.policy_loss import linear_policy_loss


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table."""

    name: str
    run: Method | str  # or the reason why it cannot run
    is_weighted: bool


def three_matmuls(x: Inputs) -> None:
    """The products any exact method must do, on full logits: no loss, no gradients kept."""
    with torch.no_grad():
        logits = x.hidden @ x.weight.t()
        x.hidden.grad, x.weight.grad = logits @ x.weight, logits.t() @ x.hidden


def ours(backend: str = "auto", **options) -> Method:
    def run(x: Inputs) -> None:
        args = (x.hidden, x.weight, x.target, x.token_weight)
        linear_policy_loss(*args, backend=backend, **options).loss.backward()

    return run


def naive(x: Inputs) -> None:
    F.cross_entropy(F.linear(x.hidden, x.weight), x.target).backward()


def naive_weighted(x: Inputs) -> None:
    loss = F.cross_entropy(F.linear(x.hidden, x.weight), x.target, reduction="none")
    (loss * x.token_weight).sum().backward()


def torch_chunked(rows: int, reduction: str) -> Method | str:
    """torch.nn.functional.linear_cross_entropy with chunks of `rows`; its own "auto" is slower."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return f"torch {torch.__version__} has no chunked linear_cross_entropy"

    def run(x: Inputs) -> None:
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
        args = {"reduction": reduction, "options": options}
        loss = F.linear_cross_entropy(x.hidden, x.weight, x.target, **args)
        (loss if reduction == "mean" else (loss * x.token_weight).sum()).backward()

    return run


def liger(reduction: str) -> Method | str:
    function = _peer("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy")
    if isinstance(function, str):
        return function

    def run(x: Inputs) -> None:
        loss = function(x.hidden, x.weight, x.target, reduction=reduction)
        (loss if reduction == "mean" else (loss * x.token_weight).sum()).backward()

    return run


def liger_grpo() -> Method | str:
    """Liger's chunked GRPO loss on 8 sequences, advantages of both signs; timed, not compared."""
    loss_class = _peer("liger_kernel.chunked_loss", "LigerFusedLinearGRPOLoss", needs_cuda=False)
    if isinstance(loss_class, str):
        return loss_class

    def run(x: Inputs) -> None:
        compiled = x.hidden.is_cuda
        module = loss_class(beta=0.0, use_ref_model=False, compiled=compiled, loss_type="dapo")
        target = x.target.view(8, -1)
        advantages = torch.where(torch.arange(8) % 2 == 0, -1.0, 0.1).to(x.target.device)
        hidden = x.hidden.view(8, -1, x.hidden.shape[1])
        loss, *_ = module(hidden, x.weight, target, torch.ones_like(target), advantages)
        loss.backward()

    return run


def cut_cross_entropy(filter_eps: str | None, reduction: str) -> Method | str:
    function = _peer("cut_cross_entropy", "linear_cross_entropy")
    if isinstance(function, str):
        return function

    def run(x: Inputs) -> None:
        options = {"reduction": reduction, "filter_eps": filter_eps}
        loss = function(x.hidden, x.weight, x.target, **options)
        (loss if reduction == "mean" else (loss * x.token_weight).sum()).backward()

    return run


def quack() -> Method | str:
    function = _peer("quack.linear_cross_entropy", "chunked_linear_cross_entropy")
    if isinstance(function, str):
        return function
    return lambda x: function(x.hidden, x.weight, x.target).backward()


def entries(device: torch.device, *, has_peers: bool, chunk: int) -> list[Entry]:
    """All rows of the table; the first is the floor, the second ours, the third the naive way."""
    rows = [
        Entry("three matmuls (floor)", three_matmuls, True),
        Entry("nsr_fast", ours(), True),
        Entry("torch: cross_entropy(linear)", naive, False),
        Entry("torch: the same, weighted", naive_weighted, True),
        Entry("nsr_fast into .grad", ours(accumulate_into_grad=True), True),
        Entry(f"torch linear_cross_entropy, {chunk} rows", torch_chunked(chunk, "mean"), False),
    ]
    if device.type == "cuda":
        rows.append(Entry("nsr_fast, triton", ours("triton"), True))
        weighted = torch_chunked(chunk, "none")
        rows.append(Entry("torch linear_cross_entropy, weighted", weighted, True))
    if has_peers:
        rows += [
            Entry("liger 0.8.5, mean", liger("mean"), False),
            Entry("liger 0.8.5, weighted", liger("none"), True),
            Entry("liger 0.8.5 GRPO", liger_grpo(), False),
            Entry("cut-cross-entropy, default", cut_cross_entropy("high", "none"), True),
            Entry("cut-cross-entropy, exact", cut_cross_entropy(None, "none"), True),
            Entry("quack, mean", quack(), False),
        ]
    return rows


def _peer(module: str, name: str, *, needs_cuda: bool = True) -> Callable | str:
    if needs_cuda and not torch.cuda.is_available():
        return "needs a CUDA GPU"
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"cannot import {module}: {error}"
