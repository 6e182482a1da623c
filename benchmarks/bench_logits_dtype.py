"""What `logits_dtype: float32` costs a bfloat16 policy on the CPU.

    python benchmarks/bench_logits_dtype.py [--tokens 512 --hidden 576 --vocab 49152]

The trainer's head with gradients and its logprobs alone over `--tokens` rows, the engine's head
over `--sequences` rows, random weights. Both dtypes run in turns; a ratio is the median over the
turns of CPU time against that with bfloat16 logits. Lines go to
benchmarks/results/logits_dtype.jsonl.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nsr_fast.bench.timing import append_lines, code_fields
from nsr_fast.kernels.logprobs import linear_logprobs
from nsr_fast.kernels.matmul import head_logits
from nsr_fast.kernels.policy_loss import linear_policy_loss

RESULTS = Path(__file__).parent / "results" / "logits_dtype.jsonl"
DTYPES = (torch.bfloat16, torch.float32)


def calls(options: argparse.Namespace) -> dict[str, Callable[[torch.dtype], object]]:
    """By name, each of the dtype of its logits."""
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.hidden).bfloat16().requires_grad_()
    weight = (0.05 * torch.randn(options.vocab, options.hidden)).bfloat16().requires_grad_()
    target = torch.randint(options.vocab, (options.tokens,))
    token_weight = torch.randn(options.tokens)
    few = hidden.detach()[: options.sequences]

    def loss(dtype: torch.dtype) -> None:
        keys = {"logits_dtype": dtype, "accumulate_into_grad": True}
        linear_policy_loss(hidden, weight, target, token_weight, **keys).loss.backward()
        hidden.grad = None

    @torch.no_grad()
    def logprobs(dtype: torch.dtype) -> None:
        linear_logprobs(hidden, weight, target, logits_dtype=dtype)

    @torch.no_grad()
    def engine(dtype: torch.dtype) -> None:
        if dtype == torch.bfloat16:
            torch.nn.functional.linear(few, weight)
        else:
            head_logits(few, weight, None, dtype)

    return {"loss with gradients": loss, "logprobs": logprobs, "engine": engine}


def seconds_of(call: Callable[[torch.dtype], object], repeats: int) -> list[list[float]]:
    found = [[], []]
    for turn in range(repeats + 1):
        for dtype, into in zip(DTYPES, found):
            started = time.process_time()
            call(dtype)
            if turn:
                into.append(time.process_time() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = []
    for name, call in calls(options).items():
        half, single = seconds_of(call, options.repeats)
        line = {
            "op": "logits_dtype",
            "call": name,
            "shape": {k: getattr(options, k) for k in ("tokens", "hidden", "vocab", "sequences")},
            "cpu_s_bfloat16": round(statistics.median(half), 4),
            "cpu_s_float32": round(statistics.median(single), 4),
            "ratio": round(statistics.median(b / a for a, b in zip(half, single)), 2),
            "threads": options.threads,
            "torch": torch.__version__,
            **code_fields(),
        }
        print(json.dumps(line), flush=True)
        lines.append(line)
    append_lines(options.out, lines)


if __name__ == "__main__":
    main()
