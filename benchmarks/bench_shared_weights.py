"""What one copy of the weights saves: memory and sync time, shared against copied, real vLLM.

    python benchmarks/bench_shared_weights.py

Builds a random Qwen2 (100 M parameters in float32 by default), starts the engine on it, takes one
optimizer step and syncs, once per mode and each in a process of its own. Memory is the resident set
after the step, less that of the process before the model was loaded; vLLM's own code is part of it.
Appends JSON lines to benchmarks/results/shared_weights.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "shared_weights.jsonl"


def measure(folder: str, share: bool) -> dict:
    """One mode, in this process; the numbers of the result line."""
    import torch

    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nsr_fast.rollout.vllm_engine import VllmEngine

    before = resident_bytes()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = VllmEngine(
        folder,
        model,
        AutoTokenizer.from_pretrained(folder),
        stop_token_ids=[0],
        max_model_len=64,
        max_num_seqs=2,
        share=share,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    syncs_ms = []
    for _ in range(5):
        model(torch.randint(0, 100, (1, 8)), use_cache=False).logits.logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        started = time.perf_counter()
        engine.weights_updated()
        syncs_ms.append(1e3 * (time.perf_counter() - started))
    used = resident_bytes() - before
    num_parameters = sum(p.numel() for p in model.parameters())
    engine.close()
    return {
        "mode": "shared" if share else "copied",
        "num_parameters": num_parameters,
        "weights_bytes": 4 * num_parameters,
        "resident_bytes": used,
        "sync_ms": round(statistics.median(syncs_ms), 3),
    }


def resident_bytes() -> int:
    """Of this process now, freed pages given back first."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def write_model(folder: str, layers: int, hidden: int, vocab: int) -> None:
    """A random checkpoint with a word-level tokenizer of one entry."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<unk>").save_pretrained(folder)


def compare(layers: int, hidden: int, vocab: int) -> list[dict]:
    """Both modes, each measured in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, layers, hidden, vocab)
        lines = []
        for mode in ("shared", "copied"):
            command = [sys.executable, __file__, "--measure", mode, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            lines.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=32003)
    parser.add_argument("--measure", choices=["shared", "copied"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure == "shared")))
        return
    lines = compare(options.layers, options.hidden, options.vocab)
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as file:
        for line in lines:
            line |= {"benchmark": "shared_weights", "device": "cpu"}
            line |= {"date": datetime.now(UTC).strftime("%Y-%m-%d")}
            file.write(json.dumps(line) + "\n")
    print(f"{lines[0]['num_parameters'] / 1e6:.0f} M parameters, float32")
    for line in lines:
        mib = line["resident_bytes"] / 2**20
        print(f"{line['mode']:7} {mib:7.0f} MiB resident   sync {line['sync_ms']:8.3f} ms")
    saved = (lines[1]["resident_bytes"] - lines[0]["resident_bytes"]) / lines[0]["weights_bytes"]
    print(f"sharing saves {saved:.2f} copies of the weights")


if __name__ == "__main__":
    main()
