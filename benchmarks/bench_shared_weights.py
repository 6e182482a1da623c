"""What one copy of the weights saves: NSR rounds through the real vLLM, shared against copied.

    python benchmarks/bench_shared_weights.py [--layers 14 --hidden 768 --vocab 32003]

A random Qwen2 (107 M parameters in float32 on the CPU; Qwen2.5-0.5B's shape in bfloat16 on CUDA)
trains three rounds, once per mode and each in a process of its own. Reported are the memory of
engine and trainer (CPU: the resident set's high-water mark above that before the model was loaded,
vLLM's own code part of it; CUDA: the device's peak use), the sync after an update, the decode rate
and, on CUDA, the KV cache's bytes as released for the update and regained. Appends JSON lines to
benchmarks/results/shared_weights.jsonl.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "shared_weights.jsonl"
KV_GIB = 0.25
ROUNDS, PROMPTS, GENERATIONS, PROMPT_TOKENS = 3, 4, 4, 32


def measure(folder: str, share: bool, completion: int) -> dict:
    """One mode, in this process; the numbers of the result line."""
    import torch

    torch.set_num_threads(1)
    meter = MemoryMeter()
    learner = make_learner(folder, share, completion)
    policy = learner.policy
    prompts = make_prompts(policy.config.vocab_size)
    from nsr_fast.train.round import run_round

    rounds = [run_round(learner, index, prompts).metrics for index in range(ROUNDS)]
    peak_bytes, num_parameters = meter.peak_bytes(), sum(p.numel() for p in policy.parameters())
    allocate_as_usual()
    decode_tokens_per_s = decode_rate(learner, prompts)
    syncs_ms = []
    for _ in range(5):
        started = time.perf_counter()
        learner.engine.weights_updated()
        syncs_ms.append(1e3 * (time.perf_counter() - started))
    note = learner.engine.notes[0]
    learner.engine.close()
    return {
        "mode": "shared" if share else "copied",
        "weights": note,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "dtype": str(policy.dtype).removeprefix("torch."),
        "num_parameters": num_parameters,
        "weights_bytes": policy.dtype.itemsize * num_parameters,
        "peak_bytes": peak_bytes,
        "sync_ms": round(statistics.median(syncs_ms), 3),
        "decode_tokens_per_s": decode_tokens_per_s,
        "drift_mean": max(r["drift_mean"] for r in rounds),
        "seconds": {p: round(rounds[-1][f"time/{p}"], 3) for p in ("rollout", "train", "sync")},
        **{name: value for name, value in rounds[-1].items() if name.startswith("memory/")},
        "torch": torch.__version__,
    }


def allocate_as_usual() -> None:
    """Undo what compare() asks of malloc for the memory's sake: it slows large temporaries."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, where glibc's own adaptation ends
    libc.mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD, likewise


def decode_rate(learner, prompts: list) -> float:
    """Tokens per second of the engine, the median of three calls."""
    rates, sampling = [], learner.config.sampling.sampling
    for _ in range(3):
        started = time.perf_counter()
        stream = learner.engine.generate(prompts, sampling, range(len(prompts)))
        num_tokens = sum(len(rollout.token_ids) for *_, rollout in stream)
        rates.append(num_tokens / (time.perf_counter() - started))
    return round(statistics.median(rates), 1)


def make_learner(folder: str, share: bool, completion: int):
    """What nsr-fast train builds from its settings, with a reward on the first token's parity."""
    from nsr_fast.config import Config
    from nsr_fast.run.build import prepare
    from nsr_fast.train.loop import build_learner

    rows = Path(folder) / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    keys = {"model": folder, "data": str(rows), "output_dir": f"{folder}/run", "engine": "vllm"}
    keys |= {"template": "none", "reward": f"{__file__}:parity", "kv_cache_gib": KV_GIB}
    keys |= {"num_generations": GENERATIONS, "max_num_seqs": PROMPTS * GENERATIONS}
    keys |= {"max_prompt_length": PROMPT_TOKENS, "max_completion_length": completion}
    keys |= {"share_weights": share, "micro_batch_tokens": 4096, "drift_limit": 0.1}
    keys |= {"max_truncated": None, "constant_reward_rounds": None}  # a random policy
    config = Config.from_flat(keys | {"gpu_memory_utilization": 0.3})
    return build_learner(config, prepare(config))


def parity(prompts, completions, completion_ids, **columns):
    return [1.0 if ids[0] % 2 else -1.0 for ids in completion_ids]


def make_prompts(vocab: int) -> list:
    from nsr_fast.types import Prompt

    ids = [
        [(7919 * (i + 1) * (j + 1)) % vocab for j in range(PROMPT_TOKENS)] for i in range(PROMPTS)
    ]
    return [Prompt(str(i), "", tuple(row), None, {}) for i, row in enumerate(ids)]


class MemoryMeter:
    """Peak memory from here on, beyond what is in use now."""

    def __init__(self) -> None:
        import torch

        from nsr_fast.bench.timing import ResidentPeak

        self._on_cuda = torch.cuda.is_available()
        if not self._on_cuda:
            self._resident = ResidentPeak()

    def peak_bytes(self) -> int:
        """CUDA: what the allocator and vLLM's pools hold at most, the KV cache included."""
        import torch

        if self._on_cuda:
            return torch.cuda.max_memory_reserved()
        return self._resident.bytes()


def write_model(folder: str, layers: int, hidden: int, vocab: int) -> None:
    """A random checkpoint with a word-level tokenizer of two entries."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden if hidden != 896 else 4864,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64 if hidden != 896 else 2,
        tie_word_embeddings=True,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<unk>").save_pretrained(folder)


def compare(layers: int, hidden: int, vocab: int, completion: int) -> list[dict]:
    """Both modes, each measured in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, layers, hidden, vocab)
        lines = []
        for mode in ("shared", "copied"):
            command = [sys.executable, __file__, "--measure", mode, "--folder", folder]
            command += ["--completion", str(completion)]
            # glibc gives every freed tensor back at once, so that the peak is what is held
            env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            lines.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return lines


def copies_saved(lines: list[dict]) -> float:
    """By how many copies of the weights sharing lowers the peak."""
    shared, copied = lines
    return (copied["peak_bytes"] - shared["peak_bytes"]) / shared["weights_bytes"]


def main() -> None:
    import torch

    from nsr_fast.bench.timing import append_lines, code_fields

    sizes = (24, 896, 151_936, 512) if torch.cuda.is_available() else (14, 768, 32_003, 32)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, size in zip(("layers", "hidden", "vocab", "completion"), sizes, strict=True):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", choices=["shared", "copied"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        line = measure(options.folder, options.measure == "shared", options.completion)
        print(json.dumps(line))
        return
    lines = compare(options.layers, options.hidden, options.vocab, options.completion)
    append_lines(options.out, (x | {"benchmark": "shared_weights"} | code_fields() for x in lines))
    first = lines[0]
    print(f"{first['num_parameters'] / 1e6:.0f} M parameters, {first['dtype']}, {first['device']}")
    for line in lines:
        mib, rate = line["peak_bytes"] / 2**20, line["decode_tokens_per_s"]
        print(
            f"{line['mode']:7} {mib:7.0f} MiB at the peak   sync {line['sync_ms']:8.3f} ms   "
            f"decode {rate:8.1f} tokens/s"
        )
    print(f"sharing saves {copies_saved(lines):.2f} copies of the weights")


if __name__ == "__main__":
    main()
