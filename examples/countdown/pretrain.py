"""Makes the Countdown base policy: a Qwen2 checkpoint trained on solutions and mistaken traces.

    loss = mean over trace tokens (and the final <eos>) of -log p(token | prompt, trace so far)

AdamW, linear warm-up and decay, fixed seed, one thread: the same command gives the same weights on
the same kind of processor. README.md beside this file holds the recipe's measured figures.

    OMP_NUM_THREADS=1 python examples/countdown/pretrain.py --out examples/countdown/base
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

import torch
from corpus import corpus_example
from tokenizer import build_tokenizer
from torch.nn import functional
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

BATCH = 128
LEARNING_RATE = 4e-3
WARMUP_STEPS = 100
MAX_TOKENS = 32
IGNORED = -100


def build_model(vocab_size: int, eos_id: int) -> Qwen2ForCausalLM:
    """The untrained policy: 0.76 M parameters, tied embeddings, float32."""
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=eos_id,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def corpus_batch(rng, tokenizer, mistaken_share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [BATCH, longest example] int64, padded on the right."""
    rows, labels = [], []
    for _ in range(BATCH):
        problem, trace = corpus_example(rng, mistaken_share)
        prompt = tokenizer.convert_tokens_to_ids(split_text(problem.prompt))
        answer = [*tokenizer.convert_tokens_to_ids(split_text(trace)), tokenizer.eos_token_id]
        rows.append(prompt + answer)
        labels.append([IGNORED] * len(prompt) + answer)
    width = max(map(len, rows))
    pad = tokenizer.eos_token_id
    rows = [row + [pad] * (width - len(row)) for row in rows]
    labels = [row + [IGNORED] * (width - len(row)) for row in labels]
    return torch.tensor(rows), torch.tensor(labels)


def split_text(text: str) -> list[str]:
    """The tokens of a prompt or trace: whole numbers and single signs."""
    return re.findall(r"[0-9]+|.", text)


def train(model, tokenizer, options) -> None:
    """Optimises the model in place; prints the loss every 100 steps."""
    rng = random.Random(f"countdown corpus {options.seed}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    start, total = time.monotonic(), 0.0
    for step in range(1, options.steps + 1):
        left = (options.steps - step) / max(1, options.steps - WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / WARMUP_STEPS, left)
        tokens, labels = corpus_batch(rng, tokenizer, options.mistaken_share)
        logits = model(tokens).logits[:, :-1]
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % 100 == 0:
            print(
                f"step {step} loss {total / 100:.4f} {time.monotonic() - start:.0f} s", flush=True
            )
            total = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the Countdown base policy.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--mistaken-share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), tokenizer.eos_token_id)
    train(model, tokenizer, options)
    model.generation_config = GenerationConfig(
        do_sample=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
