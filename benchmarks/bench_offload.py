"""What moving memory to the host costs an update on the CPU, where nothing crosses a bus.

    python benchmarks/bench_offload.py [--tokens 512] [--hidden 336 --layers 8]

Qwen2.5-7B's shape with every width divided and random weights. An update is two passes of
`--tokens` tokens and a step. Ways run in turns; a ratio is the median over the turns of CPU time
against the plain update of the same turn. One line for each way, with the bytes of gradients and of
saved activations that are alive at most, goes to benchmarks/results/offload.jsonl.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from nsr_fast.bench.timing import append_lines, code_fields
from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.memory.offload import ActivationOffload
from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.batch import MicroBatch, hidden_states, pack
from nsr_fast.objective import Objective
from nsr_fast.train.optimizer import PolicyOptimizer
from nsr_fast.train.step import update_policy
from nsr_fast.types import Prompt, Rollout

RESULTS = Path(__file__).parent / "results" / "offload.jsonl"
CPU = torch.device("cpu")
# way -> (offload, gradient checkpointing, activation offload)
WAYS = {
    "plain": ("none", False, False),
    "offload: optimizer": ("optimizer", False, False),
    "offload: gradients": ("gradients", False, False),
    "activation_offload without checkpointing": ("none", False, True),
    "gradient_checkpointing": ("none", True, False),
    "gradient_checkpointing, activation_offload": ("none", True, True),
    "all three": ("gradients", True, True),
}


def random_policy(hidden: int, layers: int, *, checkpointing: bool) -> PreTrainedModel:
    """Qwen2.5-7B's widths divided by 3584 / hidden; untied."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=152064 * hidden // 3584,
        hidden_size=hidden,
        intermediate_size=18944 * hidden // 3584,
        num_hidden_layers=layers,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    policy = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=PACKED_ATTENTION
    )
    policy.config.use_cache = False
    if checkpointing:
        policy.gradient_checkpointing_enable()
    return policy.train()


def rollouts(tokens: int, vocab: int) -> list[Rollout]:
    """Two of random tokens after a prompt of one, one wrong and one right."""
    ids = torch.randint(0, vocab, (2, tokens), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [Prompt("", "", tuple(row[:1]), None, {}) for row in ids]
    return [
        Rollout(prompt, tuple(row[1:]), (0.0,) * (tokens - 1), "", "stop", weight=weight)
        for prompt, row, weight in zip(prompts, ids, (-1.0, 1.0))
    ]


def saved_bytes(
    policy: PreTrainedModel, batch: MicroBatch, activations: ActivationOffload | None
) -> dict[str, int]:
    """Bytes a token that the trunk keeps, on the device and on the host."""
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, Tensor] = {}  # alive, so that no address is used twice

    def pack_(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with saved_tensors_hooks(pack_, lambda x: x):
        hidden_states(policy, batch)
    on_host, tokens = 0, batch.input_ids.numel()
    if activations:
        with activations.of(policy):
            graph = hidden_states(policy, batch)
        on_host = activations.num_kept_bytes
        del graph
    whole = sum(x.untyped_storage().nbytes() for x in kept.values())
    left = (whole - on_host) // tokens
    return {"device_bytes_per_token": left, "host_bytes_per_token": on_host // tokens}


def build(way: str, options: argparse.Namespace) -> tuple[Callable[[], None], dict]:
    """An update, and its bytes."""
    offload, checkpointing, moves = WAYS[way]
    policy = random_policy(options.hidden, options.layers, checkpointing=checkpointing)
    activations = ActivationOffload() if moves else None
    batches = pack(rollouts(options.tokens, policy.config.vocab_size), options.tokens, CPU)
    peaks = []

    def look(_: Tensor) -> None:
        peaks.append(sum(p.grad.nbytes for p in policy.parameters() if p.grad is not None))

    # before those of the optimizer, which take the gradient away
    handles = [p.register_post_accumulate_grad_hook(look) for p in policy.parameters()]
    optimizer = PolicyOptimizer(policy.named_parameters(), OptimizerKeys(), offload=offload)

    def update() -> None:
        objective = Objective.w_reinforce()
        update_policy(policy, optimizer, [batches], objective, 1.0, activations=activations)

    update()
    for handle in handles:
        handle.remove()
    size = sum(p.nbytes for p in policy.parameters())
    share = round(max(peaks) / size, 3)
    return update, {"gradients_alive": share, **saved_bytes(policy, batches[0], activations)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=336)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    updates = {way: build(way, options) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, (update, _) in updates.items():
            started = time.process_time()
            update()
            seconds[way].append(time.process_time() - started)
    lines = []
    for way, (_, found) in updates.items():
        ratios = [mine / plain for mine, plain in zip(seconds[way], seconds["plain"])]
        line = {
            "op": "offload",
            "way": way,
            "shape": {"T": options.tokens, "passes": 2, "H": options.hidden, "L": options.layers},
            "cpu_s": round(statistics.median(seconds[way]), 2),
            "ratio_to_plain": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
            **found,
            "threads": options.threads,
            "torch": torch.__version__,
            **code_fields(),
        }
        print(json.dumps(line))
        lines.append(line)
    append_lines(options.out, lines)


if __name__ == "__main__":
    main()
