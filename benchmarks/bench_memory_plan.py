"""Is the planned peak the measured one? Short real runs of `nsr-fast train`, one process each.

    python benchmarks/bench_memory_plan.py [--engine vllm] [--sizes 35M] [--key value ...]

Three random models; of each the metrics memory/predicted_peak_bytes (for the largest pass of the
round) and memory/peak_bytes of the second round, when every state exists. Prints a row a run and
adds a line a run to --out. On the CPU the measure is the anonymous resident peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SIZES = {  # hidden, intermediate, layers, heads, kv heads, vocabulary
    "35M": (384, 1024, 12, 6, 2, 32768),
    "77M": (512, 1408, 16, 8, 4, 49152),
    "135M": (576, 1536, 30, 9, 3, 49152),
}
REWARD = """
def parity(prompts, completions, completion_ids, **columns):
    return [1.0 if ids and ids[0] % 2 else -1.0 for ids in completion_ids]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/memory_plan.jsonl"))
    options, keys = parser.parse_known_args()  # further --key value pairs go to the run
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            line = measured(size, options.engine, keys, Path(folder))
        with Path(options.out).open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(
            f"{size:6} predicted {line['predicted_bytes'] / 2**20:7.0f} MiB  measured "
            f"{line['peak_bytes'] / 2**20:7.0f} MiB  error {line['error']:+.1%}  pass of "
            f"{line['largest_pass_tokens']} tokens",
            flush=True,
        )


def measured(size: str, engine: str, keys: list[str], folder: Path) -> dict:
    """One run of the command line and what its last round says."""
    write_model(folder / "model", *SIZES[size])
    rows = [{"problem": f"{i} + {i}? " + "abcd " * 40, "answer": "0"} for i in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    settings = {
        "model": folder / "model",
        "data": folder / "rows.jsonl",
        "reward": f"{folder}/reward.py:parity",
        "output_dir": folder / "run",
        "template": "none",
        "engine": engine,
        "max_rounds": 2,
        "prompts_per_round": 4,
        "num_generations": 4,
        "max_completion_length": 32,
        "max_prompt_length": 256,
        "max_num_seqs": 16,
        "cpu_threads": 1,
    }
    guards = ("max_truncated", "max_no_answer", "max_unscored", "first_correct_rounds")
    settings |= dict.fromkeys((*guards, "constant_reward_rounds"), "none")
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "nsr_fast.cli", "train", *words, *keys]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    *_, last = (json.loads(line) for line in (folder / "run/metrics.jsonl").open())
    predicted, peak = last["memory/predicted_peak_bytes"], last["memory/peak_bytes"]
    return {
        "op": "memory_plan",
        "model": size,
        "engine": engine,
        "keys": keys,
        "largest_pass_tokens": last["memory/largest_pass_tokens"],
        "predicted_bytes": predicted,
        "peak_bytes": peak,
        "error": predicted / peak - 1,
        **about(),
    }


def write_model(folder: Path, hidden, intermediate, layers, heads, kv_heads, vocab) -> None:
    """A random tied Llama with a byte tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.checkpoints import byte_tokenizer

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = [2]
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    file = folder / "tokenizer.json"  # a token for every row: rows without one are never touched
    tokenizer = json.loads(file.read_text())
    known = tokenizer["model"]["vocab"]
    known |= {f"<{index}>": index for index in range(len(known), vocab)}
    file.write_text(json.dumps(tokenizer))


def about() -> dict:
    """Where and when."""
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    date = time.strftime("%Y-%m-%d")
    return {"gpu": gpu, "torch": torch.__version__, "commit": commit, "date": date}


if __name__ == "__main__":
    main()
