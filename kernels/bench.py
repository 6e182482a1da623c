"""Time, memory and error of the vocabulary head's loss, side by side in one interleaved run.

Each method does one forward and backward pass over the same inputs. Time is the median of
interleaved repeats (CUDA events after an L2 flush; wall and process time on a CPU), memory the peak
beyond inputs and gradients, errors are against float64. kernels/bench_run.py drives it for the
verb `nsr-fast bench` and for benchmarks/bench_linear_loss.py.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels import reference


@dataclass(frozen=True)
class Case:
    """One problem: shapes, dtype, place, and the share of rows whose weight is not 0."""

    tokens: int
    vocab: int
    width: int
    dtype: torch.dtype
    device: torch.device
    active: float = 1.0
    seed: int = 0

    @property
    def shape(self) -> dict[str, float]:
        return {"T": self.tokens, "V": self.vocab, "H": self.width, "active": self.active}


@dataclass(frozen=True, slots=True)
class Inputs:
    """hidden [T, D] and weight [V, D] are leaves; entropy is the row entropy of the logits [T]."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    token_weight: Tensor
    entropy: Tensor

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None

    def gradient_bytes(self) -> int:
        return sum(x.grad.nbytes for x in (self.hidden, self.weight) if x.grad is not None)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of each repeat; cpu_ms is the time of all threads of the process."""

    wall_ms: list[float]
    cpu_ms: list[float]

    def line(self) -> dict[str, float]:
        ranked = sorted(self.wall_ms)
        pick = [ranked[round(q * (len(ranked) - 1))] for q in (0.5, 0.2, 0.8)]
        names = ("median_ms", "p20_ms", "p80_ms")
        values = {name: round(value, 3) for name, value in zip(names, pick)}
        return values | {"cpu_ms": round(statistics.median(self.cpu_ms), 3)}


Method = Callable[[Inputs], None]


def peaked_inputs(case: Case) -> Inputs:
    """Hidden rows whose logits look like a trained model's: few candidates, a diffuse tail.

    weight ~ N(0, 1/D). A row wants logits 17-24 on one token (80 % of rows) or 20 - log(rank) on 8
    to 200 tokens (20 %), and is the shortest vector that gives them. Targets are drawn from the
    softmax. The tail of every row is what random weights give: more diffuse than a trained model's.
    """
    g = torch.Generator().manual_seed(case.seed)
    weight = torch.randn(case.vocab, case.width, generator=g) / case.width**0.5
    hidden = torch.empty(case.tokens, case.width)
    most = min(200, case.vocab, case.width)
    for row in range(case.tokens):
        if torch.rand((), generator=g) < 0.8:
            wanted = 17 + 7 * torch.rand(1, generator=g)
        else:
            count = int(torch.randint(min(8, most), most + 1, (), generator=g))
            wanted = 20 - torch.arange(1, count + 1).float().log()
        rows = weight[torch.randint(0, case.vocab, (wanted.numel(),), generator=g)]
        ridge = 1e-4 * torch.eye(wanted.numel())
        hidden[row] = rows.t() @ torch.linalg.solve(rows @ rows.t() + ridge, wanted)
    target, entropy = _sample(hidden, weight, g)
    w = torch.where(torch.rand(case.tokens, generator=g) < 0.5, -1.0, 0.1) / case.tokens
    order = torch.randperm(case.tokens, generator=g)
    w[order[round(case.active * case.tokens) :]] = 0.0
    place = {"device": case.device, "dtype": case.dtype}
    return Inputs(
        hidden.to(**place).requires_grad_(),
        weight.to(**place).requires_grad_(),
        target.to(case.device),
        w.to(case.device),
        entropy,
    )


def _sample(hidden: Tensor, weight: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    targets, entropies = [], []
    for part in hidden.split(64):
        logp = torch.log_softmax(part @ weight.t(), dim=1)
        p = logp.exp()
        targets.append(torch.multinomial(p, 1, generator=g).squeeze(1))
        entropies.append(-(p * logp).sum(dim=1))
    return torch.cat(targets), torch.cat(entropies)


def time_interleaved(methods: dict[str, Method], inputs: Inputs, repeats: int) -> dict[str, Timing]:
    """Every method once per round: `repeats` rounds, on CUDA after one that warms up compilers."""
    timings = {name: Timing([], []) for name in methods}
    warm_up = 1 if inputs.hidden.is_cuda else 0
    for round_index in range(repeats + warm_up):
        for name, method in methods.items():
            inputs.clear()
            wall, cpu = _time_once(method, inputs)
            if round_index >= warm_up:
                timings[name].wall_ms.append(wall)
                timings[name].cpu_ms.append(cpu)
    inputs.clear()
    return timings


def _time_once(method: Method, inputs: Inputs) -> tuple[float, float]:
    if not inputs.hidden.is_cuda:
        wall, cpu = time.perf_counter(), time.process_time()
        method(inputs)
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
    torch.empty(256 << 20, dtype=torch.int8, device=inputs.hidden.device).zero_()  # flushes L2
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    method(inputs)
    stop.record()
    torch.cuda.synchronize()
    elapsed = start.elapsed_time(stop)
    return elapsed, elapsed


def peak_bytes(method: Method, inputs: Inputs) -> int | None:
    """Peak memory of one pass beyond inputs and gradients; None where it cannot be measured.

    CUDA: the allocator's peak. Linux: the resident set's high-water mark, reset before the pass.
    """
    inputs.clear()
    gc.collect()
    if inputs.hidden.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        method(inputs)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            return None
        before = _status_bytes("VmRSS")
        method(inputs)
        peak = _status_bytes("VmHWM")
    beyond = peak - before - inputs.gradient_bytes()
    inputs.clear()
    return max(beyond, 0)


def _status_bytes(name: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


def errors(method: Method, inputs: Inputs, truth: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative (Frobenius) errors of the two gradients against `truth` from float64_gradients."""
    inputs.clear()
    method(inputs)
    found = (inputs.hidden.grad, inputs.weight.grad)
    names = ("error_hidden", "error_weight")
    result = {}
    for name, grad, want in zip(names, found, truth):
        gap = (grad.double() - want).norm() / want.norm().clamp(min=1e-300)
        result[name] = float(f"{gap.item():.2e}")
    inputs.clear()
    return result


def float64_gradients(inputs: Inputs, token_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of -sum token_weight logprob in float64, for inputs as they are rounded."""
    hidden = inputs.hidden.detach().double().requires_grad_()
    weight = inputs.weight.detach().double().requires_grad_()
    reference.linear_policy_loss(hidden, weight, inputs.target, token_weight.double()).backward()
    return hidden.grad, weight.grad
