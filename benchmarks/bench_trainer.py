"""The trainer's update alone: tokens per second, peak memory and MFU at fixed shapes.

    python benchmarks/bench_trainer.py [--tokens 16384 65536]

Qwen3-0.6B's shape with random weights, full fine-tuning with AdamW, gradient checkpointing. A step
is two micro-batches of one sequence each, `--tokens` long, every completion wrong (NSR): forward,
fused head, backward, clipping and the optimizer's write, as nsr-fast train runs it; no engine. The
shapes are those of prime-rl's public trainer-only baselines on one H100. Model FLOPs are
6 N T for the N weights outside the embedding lookup, plus 6 L H T^2 for causal attention; MFU is
against 989 TFLOP/s (H100 and H200, dense bfloat16). Appends JSON lines to
benchmarks/results/trainer.jsonl.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from nsr_fast.bench.timing import append_lines, code_fields
from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.model.attention import PACKED_ATTENTION, attention_note
from nsr_fast.model.batch import pack
from nsr_fast.objective import Objective
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import update_policy
from nsr_fast.types import Prompt, Rollout

RESULTS = Path(__file__).parent / "results" / "trainer.jsonl"
PEAK_FLOPS = 989e12
SEQUENCES = 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_policy(layers: int, hidden: int, vocab: int) -> PreTrainedModel:
    """Qwen3-0.6B with the given depth, width and vocabulary."""
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=1 << 17,
        tie_word_embeddings=True,
    )
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    with torch.device(DEVICE):
        policy = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=PACKED_ATTENTION
        )
    policy.config.use_cache = False
    policy.gradient_checkpointing_enable()
    return policy.train()


def wrong_rollouts(tokens: int, vocab: int) -> list[Rollout]:
    """Random tokens after a prompt of one."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, vocab, (SEQUENCES, tokens), generator=generator).tolist()
    prompts = [Prompt("", "", tuple(row[:1]), None, {}) for row in rows]
    sampler = (0.0,) * (tokens - 1)
    return [
        Rollout(prompt, tuple(row[1:]), sampler, "", "stop", is_correct=False, weight=-1.0)
        for prompt, row in zip(prompts, rows)
    ]


def model_flops(policy: PreTrainedModel, tokens: int) -> float:
    """Of one sequence, forward and backward, recomputation not counted."""
    config = policy.config
    head = config.vocab_size * config.hidden_size
    weights = sum(p.numel() for p in policy.model.layers.parameters()) + head
    width = config.num_attention_heads * config.head_dim
    return 6.0 * weights * tokens + 6.0 * config.num_hidden_layers * width * tokens**2


def measure(policy: PreTrainedModel, tokens: int, repeats: int) -> dict:
    """Median seconds of a step after one that warms up, and the peak of the measured ones."""
    optimizer = PolicyOptimizer(policy.named_parameters(), OptimizerKeys())
    rollouts = wrong_rollouts(tokens, policy.config.vocab_size)
    seconds = []
    for index in range(repeats + 1):
        if DEVICE.type == "cuda" and index == 1:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        minibatch = pack(rollouts, tokens, DEVICE)
        update_policy(policy, optimizer, [minibatch], Objective.nsr(), 1.0)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[1:])
    line = {"tokens_per_s": round(SEQUENCES * tokens / step_s, 1), "step_s": round(step_s, 3)}
    if DEVICE.type == "cuda":
        line["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        line["mfu"] = round(SEQUENCES * model_flops(policy, tokens) / step_s / PEAK_FLOPS, 4)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16_384, 65_536])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    policy = random_policy(options.layers, options.hidden, options.vocab)
    for tokens in options.tokens:
        line = {
            "op": "trainer_step",
            "shape": {"T": tokens, "L": options.layers, "H": options.hidden, "V": options.vocab},
            "num_parameters": sum(p.numel() for p in policy.parameters()),
            "dtype": str(policy.dtype).removeprefix("torch."),
            "attention": attention_note(policy),
            **measure(policy, tokens, options.repeats),
            "gpu": torch.cuda.get_device_name() if DEVICE.type == "cuda" else None,
            "torch": torch.__version__,
            **code_fields(),
        }
        print(json.dumps(line))
        append_lines(options.out, [line])


if __name__ == "__main__":
    main()
