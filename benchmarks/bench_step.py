"""A whole training step with and without full logits: peak memory and time on the CPU.

    python benchmarks/bench_step.py

A random Qwen2 with Qwen2.5's vocabulary head (V = 151,936, H = 896, two layers) takes one packed
forward and backward pass over 1024 completion tokens, half of them of wrong rollouts. "full logits"
is log_softmax over [T, V] and autograd on all rows; "nsr" is the trainer's own accumulate_gradients
on the rows that carry weight. Each runs in a process of its own; memory is the resident set's
high-water mark above that before the step, gradients included. Appends JSON lines to
benchmarks/results/step.jsonl.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "step.jsonl"
METHODS = ("full logits", "nsr, every row", "nsr, wrong rows only")


def measure(method: str, tokens: int, vocab: int, hidden: int, threads: int) -> dict:
    """One method in this process."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from nsr_fast.bench.timing import ResidentPeak
    from nsr_fast.model.attention import PACKED_ATTENTION
    from nsr_fast.model.batch import hidden_states, pack
    from nsr_fast.objective import Objective
    from nsr_fast.train.step import accumulate_gradients
    from nsr_fast.types import Prompt, Rollout

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=2,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 448 or 1,
        tie_word_embeddings=True,
    )
    policy = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=PACKED_ATTENTION
    )
    ids = torch.randint(0, vocab, (tokens // 64, 96)).tolist()
    weights = [1.0 if i % 2 else -1.0 for i in range(len(ids))]
    prompts = [Prompt("", "", tuple(row[:32]), None, {}) for row in ids]
    rollouts = [
        Rollout(prompt, tuple(row[32:]), (0.0,) * 64, "", "stop", weight=weight)
        for prompt, row, weight in zip(prompts, ids, weights)
        if weight < 0 or method != METHODS[2]
    ]
    batches = pack(rollouts, 10**9, policy.device)

    def full_logits() -> None:
        (batch,) = batches
        logprob = policy.lm_head(hidden_states(policy, batch)).log_softmax(-1)
        chosen = logprob.gather(1, batch.target[:, None]).squeeze(1)
        (-(batch.token_weight * chosen).sum() / chosen.numel()).backward()

    def step() -> None:
        if method == METHODS[0]:
            full_logits()
        else:
            accumulate_gradients(policy, batches, Objective.reinforce(), 1.0)

    meter, started = ResidentPeak(), time.process_time()
    step()
    return {
        "method": method,
        "T": tokens,
        "V": vocab,
        "H": hidden,
        "threads": threads,
        "cpu_s": round(time.process_time() - started, 2),
        "peak_bytes": meter.bytes(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = (options.tokens, options.vocab, options.hidden, options.threads)
    if options.measure:
        print(json.dumps(measure(options.measure, *shape)))
        return
    from nsr_fast.bench.timing import append_lines, code_fields

    for method in METHODS:
        command = [sys.executable, __file__, "--measure", method, "--tokens", str(shape[0])]
        command += ["--vocab", str(shape[1]), "--hidden", str(shape[2]), "--threads", str(shape[3])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        line = json.loads(done.stdout.strip().splitlines()[-1])
        append_lines(RESULTS, [line | {"benchmark": "step"} | code_fields()])
        print(f"{method:22} {line['peak_bytes'] / 2**20:7.0f} MiB  {line['cpu_s']:6.2f} CPU s")


if __name__ == "__main__":
    main()
