"""Activation bytes and CPU time of decoder layers: transformers' modules against lean_layers.

    python benchmarks/bench_activations.py [--tokens 1024] [--repeats 11] [--threads 1]

Layers of three published shapes with random weights, on packed sequences of five lengths. Bytes are
those autograd keeps after the forward pass, of the third layer alone (what three layers keep more
than two), for each token. Time is forward and backward of two layers, process time, the two
interleaved; the ratio is the median of the pairs. Appends JSON lines to
benchmarks/results/activations.jsonl.
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from nsr_fast.bench.saved import SavedBytes
from nsr_fast.bench.timing import Timing, append_lines, machine_fields
from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.lean_layers import lean_layers

RESULTS = Path(__file__).parent / "results" / "activations.jsonl"
# name -> (config, hidden, intermediate, heads, key heads, head_dim)
SHAPES = {
    "SmolLM2-135M": (LlamaConfig, 576, 1536, 9, 3, 64),
    "Qwen2.5-0.5B": (Qwen2Config, 896, 4864, 14, 2, 64),
    "Qwen3-0.6B": (Qwen3Config, 1024, 3072, 16, 8, 128),
}


def random_model(name: str, num_layers: int, dtype: torch.dtype) -> nn.Module:
    """A model of the shape with a small vocabulary, which plays no part."""
    config, hidden, intermediate, heads, key_heads, head_dim = SHAPES[name]
    torch.manual_seed(0)
    values = config(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(
        values, dtype=dtype, attn_implementation=PACKED_ATTENTION
    )
    return model.train()


def trunk(model: nn.Module, tokens: int) -> torch.Tensor:
    """Hidden states of packed sequences with a third, a quarter, ... of the tokens: [1, T, H]."""
    lengths = [tokens // part for part in (3, 4, 5, 8)]
    lengths.append(tokens - sum(lengths))
    ids = torch.randint(0, 512, (1, tokens), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return model.model(
        input_ids=ids, position_ids=positions, sequence_lengths=lengths, use_cache=False
    ).last_hidden_state


def kept_bytes(model: nn.Module, tokens: int) -> int:
    with SavedBytes(exclude=model.parameters()) as saved:
        trunk(model, tokens)
    return saved.bytes


def timings(methods: dict[str, nn.Module], tokens: int, repeats: int) -> dict[str, Timing]:
    """Forward and backward, interleaved, the order turned around every time."""
    found = {name: Timing([], []) for name in methods}
    for repeat in range(repeats + 1):
        for name in list(methods)[:: 1 if repeat % 2 else -1]:
            methods[name].zero_grad()
            wall, cpu = time.perf_counter(), time.process_time()
            hidden = trunk(methods[name], tokens)
            hidden.backward(torch.ones_like(hidden))
            if repeat:  # the first warms up
                found[name].wall_ms.append((time.perf_counter() - wall) * 1e3)
                found[name].cpu_ms.append((time.process_time() - cpu) * 1e3)
    return found


def measure(shape: str, dtype: torch.dtype, tokens: int, repeats: int) -> list[dict]:
    """One line for each of the two ways."""
    change = {"transformers": lambda model: model, "lean": lean_layers}
    two, three = (random_model(shape, n, dtype) for n in (2, 3))
    methods = {name: f(copy.deepcopy(two)) for name, f in change.items()}
    times = timings(methods, tokens, repeats)
    pairs = zip(times["lean"].cpu_ms, times["transformers"].cpu_ms)
    ratio = {"transformers": 1.0, "lean": statistics.median(a / b for a, b in pairs)}
    lines = []
    for name, f in change.items():
        third = kept_bytes(f(copy.deepcopy(three)), tokens) - kept_bytes(methods[name], tokens)
        lines.append(
            {
                "op": "layer",
                "shape": shape,
                "T": tokens,
                "dtype": str(dtype).removeprefix("torch."),
                "mode": name,
                "bytes_per_token_and_layer": round(third / tokens, 1),
                "cpu_ratio": round(ratio[name], 3),
            }
            | times[name].line()
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = machine_fields(torch.device("cpu"))
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            lines = measure(shape, dtype, options.tokens, options.repeats)
            append_lines(RESULTS, [line | machine for line in lines])
            for line in lines:
                print(
                    f"{shape:13} {line['dtype']:9} {line['mode']:13}"
                    f"{line['bytes_per_token_and_layer']:10.0f} B/token/layer"
                    f"{line['cpu_ms']:9.0f} CPU ms  x {line['cpu_ratio']:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
