"""The loss of the vocabulary head, ours beside the others: time, memory and error of one pass.

Each method does one forward and backward pass over the same inputs; errors are against float64. The
verb `nsr-fast bench` and benchmarks/bench_linear_loss.py: prints tables, returns lines.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nsr_fast.bench.methods import Entry, entries
from nsr_fast.bench.timing import (
    Inputs,
    Method,
    machine_fields,
    machine_name,
    peak_bytes,
    time_interleaved,
)
from nsr_fast.kernels.rows import RowTile, row_pass_
from nsr_fast.kernels.rows_cpu import instruction_sets
from nsr_fast.kernels.rows_reference import linear_policy_loss as full_policy_loss

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ERROR_TOKENS = 64  # float64 truth needs [V, D] and [tokens, V] in 8 bytes


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


def run_bench(arguments: Sequence[str] = ()) -> list[dict]:
    """Measure, print the tables, return one line per method and case.

    --cpu  --tokens 8192 (1024 on a CPU)  --vocab 151936  --widths 896 1536 2560 3584 (896)
    --dtype bfloat16 (float32)  --active 1.0 0.5 (1.0 0.25)  --repeats 20 (3)  --threads N
    --methods WORD ... (names containing one)  --peers  --no-errors  --no-rows  --rows-only
    """
    options = _options(list(arguments))
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu" if options.cpu else "cuda")
    print(
        f"{machine_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    )
    has_rows = device.type == "cpu" and not options.no_rows
    lines = bench_rows(options) if has_rows else []
    for width in [] if options.rows_only else options.widths:
        for active in options.active:
            shape = (options.tokens, options.vocab, width)
            lines += bench_case(Case(*shape, _DTYPES[options.dtype], device, active), options)
    return lines


def bench_case(case: Case, options: argparse.Namespace) -> list[dict]:
    """One table: every method on one case."""
    inputs = peaked_inputs(case)
    table = entries(case.device, has_peers=options.peers, chunk=options.torch_chunk)
    table = [x for x in table if any(word in x.name for word in options.methods)]
    usable = {entry.name: entry.run for entry in table if callable(entry.run)}
    quantiles = inputs.entropy.quantile(torch.tensor([0.1, 0.5, 0.8, 0.9, 0.99])).tolist()
    shown = " ".join(f"{q:.2g}" for q in quantiles)
    print(f"\n{case.shape} {case.dtype}; row entropy at .1 .5 .8 .9 .99: {shown} nats")
    timings = time_interleaved(usable, inputs, options.repeats)
    peaks = {name: peak_bytes(method, inputs) for name, method in usable.items()}
    found = {} if options.no_errors else _errors(case, table)
    lines = []
    for entry in table:
        if entry.name in timings:
            values = timings[entry.name].line() | {"peak_bytes": peaks[entry.name]}
            values |= found.get(entry.name, {})
        else:
            values = {"not_run": entry.run}
        mode = "weighted" if entry.is_weighted else "mean"
        lines.append(_line("linear_policy_loss", case, entry.name, mode) | values)
    _print_table(lines)
    return lines


def bench_rows(options: argparse.Namespace) -> list[dict]:
    """The C++ row kernel and torch's log_softmax with autograd on a 256-row tile, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        case = Case(256, options.vocab, 0, dtype, torch.device("cpu"))
        g = torch.Generator().manual_seed(0)
        logits = (torch.randn(256, options.vocab, generator=g) * 4).to(dtype)
        target = torch.randint(0, options.vocab, (256,), generator=g)
        empty = torch.zeros(0)
        inputs = Inputs(logits.requires_grad_(), empty, target, torch.randn(256), empty)
        tile = torch.empty_like(logits)
        isas = instruction_sets()
        methods = {f"nsr_fast cpu, {isa}": partial(_row_pass, tile, isa) for isa in isas}
        methods["copy of the tile"] = partial(_row_pass, tile, None)
        methods["torch log_softmax + autograd"] = _torch_rows
        timings = time_interleaved(methods, inputs, max(options.repeats, 3))
        lines += [_line("row_stats_grad", case, n, "rows") | t.line() for n, t in timings.items()]
    torch.set_num_threads(threads)
    print("\nrow kernel, 256 rows, one thread; ours includes the copy that restores the tile")
    _print_table(lines)
    return lines


def _row_pass(tile: Tensor, isa: str | None, x: Inputs) -> None:
    with torch.no_grad():
        tile.copy_(x.hidden)
        if isa is not None:
            row_pass_(RowTile(tile, x.target, backend="cpu", force=isa), x.token_weight)


def _torch_rows(x: Inputs) -> None:
    logp = torch.log_softmax(x.hidden.float(), dim=1)
    (logp.gather(1, x.target[:, None]).squeeze(1) * x.token_weight).sum().backward()


def _errors(case: Case, table: list[Entry]) -> dict[str, dict[str, float]]:
    """Gradient errors on fewer rows of the same head; not for methods that compute another loss."""
    small = Case(_ERROR_TOKENS, case.vocab, case.width, case.dtype, case.device, case.active)
    inputs = peaked_inputs(small)
    mean = torch.full_like(inputs.token_weight, 1.0 / small.tokens)
    truths = {weighted: None for weighted in (True, False)}
    found = {}
    for entry in table:
        if isinstance(entry.run, str) or "floor" in entry.name or "GRPO" in entry.name:
            continue
        if truths[entry.is_weighted] is None:
            weights = inputs.token_weight if entry.is_weighted else mean
            truths[entry.is_weighted] = float64_gradients(inputs, weights)
        # A weighted peer minimises sum w (-logprob), ours -sum w logprob: the same sign.
        found[entry.name] = errors(entry.run, inputs, truths[entry.is_weighted])
    return found


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
    target, entropy = _drawn(hidden, weight, g)
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


def _drawn(hidden: Tensor, weight: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    targets, entropies = [], []
    for part in hidden.split(64):
        logp = torch.log_softmax(part @ weight.t(), dim=1)
        p = logp.exp()
        targets.append(torch.multinomial(p, 1, generator=g).squeeze(1))
        entropies.append(-(p * logp).sum(dim=1))
    return torch.cat(targets), torch.cat(entropies)


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
    full_policy_loss(hidden, weight, inputs.target, token_weight.double()).backward()
    return hidden.grad, weight.grad


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nsr-fast bench", description=run_bench.__doc__)
    parser.add_argument("--cpu", action="store_true", default=not torch.cuda.is_available())
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--dtype", choices=_DTYPES)
    parser.add_argument("--active", type=float, nargs="+")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--torch-chunk", type=int, dest="torch_chunk")
    parser.add_argument("--methods", nargs="+", default=[""])
    for flag in ("--peers", "--no-errors", "--no-rows", "--rows-only"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args(arguments)
    cpu = (1024, [896], "float32", [1.0, 0.25], 3, 128)
    gpu = (8192, [896, 1536, 2560, 3584], "bfloat16", [1.0, 0.5], 20, 1024)
    names = ("tokens", "widths", "dtype", "active", "repeats", "torch_chunk")
    for name, value in zip(names, cpu if options.cpu else gpu):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _line(op: str, case: Case, name: str, mode: str) -> dict:
    dtype = str(case.dtype).removeprefix("torch.")
    line = {"op": op, "shape": case.shape, "dtype": dtype, "backend": name, "mode": mode}
    return line | machine_fields(case.device)


def _print_table(lines: list[dict]) -> None:
    floor, naive = (next((x for x in lines if key in x["backend"]), None) for key in _ANCHORS)
    head = f"{'method':38} {'median':>9} {'p20':>9} {'p80':>9} {'cpu ms':>9} {'x naive':>8}"
    print(f"{head} {'x floor':>8} {'MiB':>7} {'err dH':>8} {'err dW':>8}")
    for line in lines:
        if "not_run" in line:
            print(f"{line['backend']:38} not run: {line['not_run']}")
            continue
        times = [f"{line[key]:9.1f}" for key in ("median_ms", "p20_ms", "p80_ms", "cpu_ms")]
        ratios = [_ratio(line, anchor) for anchor in (naive, floor)]
        peak = line.get("peak_bytes")
        memory = f"{peak / 2**20:7.0f}" if peak is not None else f"{'-':>7}"
        gaps = [f"{line.get(key, '-')!s:>8}" for key in ("error_hidden", "error_weight")]
        print(
            f"{line['backend']:38} {' '.join(times)} {' '.join(ratios)} {memory} {' '.join(gaps)}"
        )


_ANCHORS = ("floor", "cross_entropy(linear)")


def _ratio(line: dict, anchor: dict | None) -> str:
    """By process time on a CPU, which other programs on the machine disturb least."""
    if anchor is None or "not_run" in anchor:
        return f"{'-':>8}"
    return f"{line['cpu_ms'] / anchor['cpu_ms']:8.2f}"
