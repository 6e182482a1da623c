"""The table of docs/memory.md: what fits where, by arithmetic from the sizes of the models.

python benchmarks/memory_table.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from nsr_fast.errors import InputError
from nsr_fast.memory.plan import Limits, Wishes, plan_memory
from nsr_fast.memory.shape import model_shape
from nsr_fast.memory.terms import Setup
from nsr_fast.types import AdapterShape

# hidden, intermediate, layers, heads, kv heads, vocabulary, tied: Qwen2.5's config.json
MODELS = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "14B": (5120, 13824, 48, 40, 8, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
}
NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
NAMES += ("num_key_value_heads", "vocab_size", "tie_word_embeddings")
KINDS = {
    "masters on the device": {},
    "`master_weights: stochastic`": {"master_weights": "stochastic"},
    "`optim: adamw_8bit`": {"optim": "adamw_8bit"},
    "`offload: optimizer`": {"offload": "optimizer"},
    "`offload: gradients`": {"offload": "gradients"},
    "LoRA, rank 16": {"adapter": AdapterShape(16)},
    "QLoRA, rank 16": {"adapter": AdapterShape(16, quantize="nf4")},
}
CARDS = (24, 48, 80)


def cell(shape, options: dict, gigabytes: int) -> str:
    """Tokens of one pass / KV tokens."""
    setup = Setup(shape, "cuda", 2, "vllm", longest=3072, sequences=256, **options)
    try:
        plan = plan_memory(setup, Wishes(), Limits(gigabytes * 10**9, None, ""))
    except InputError:
        return "-"
    way = "" if plan.is_checkpointed else " plain"
    return f"{plan.tokens / 1e3:.0f}k{way} / {plan.kv_tokens / 1e3:.0f}k"


def main() -> None:
    print(f"| Qwen2.5 | state | {' | '.join(f'{card} GB' for card in CARDS)} |")
    print("|---|---|" + "---|" * len(CARDS))
    for name, sizes in MODELS.items():
        shape = model_shape({"model_type": "qwen2", **dict(zip(NAMES, sizes))})
        for kind, options in KINDS.items():
            cells = [cell(shape, options, card) for card in CARDS]
            if set(cells) != {"-"}:
                print(f"| {name} | {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
