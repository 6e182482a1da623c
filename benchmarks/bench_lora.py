"""A round with adapters beside a round of full training, through the real vLLM: CPU time by phase.

    python benchmarks/bench_lora.py [--rounds 3 --completion 32]

A random Llama of SmolLM2-135M's shape (float32, tied head of 49,152 rows) trains with NSR in three
processes: all weights, LoRA of rank 16, and LoRA on NF4. They take turns, a round each, and the
first of each is left out; half of the 16 completions carry a weight. Reported are medians of the
process's CPU seconds and their ratios to full training of the same turn. Appends a JSON line to
benchmarks/results/lora.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

RESULTS = Path(__file__).parent / "results" / "lora.jsonl"
PROMPTS, GENERATIONS, PROMPT_TOKENS, RANK = 4, 4, 32, 16
LORA = {"lora_rank": RANK}
VARIANTS = {"full": {}, "lora": LORA, "nf4": {**LORA, "quantize": "nf4"}}
PHASES = {"rollout": "time/rollout", "train": "time/train", "round": "round_time"}
REWARD = "def half(prompts, completions, **columns):\n    return [1, -1] * (len(prompts) // 2)\n"


def write_inputs(folder: Path) -> None:
    """A random checkpoint whose tokenizer knows every row of the head, data and a reward."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(49_152)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(folder)
    rows = [
        {"prompt": " ".join(f"w{7919 * (i + 1) * (j + 1) % 49_152}" for j in range(PROMPT_TOKENS))}
        for i in range(PROMPTS)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)


def serve(folder: Path, variant: str, completion: int) -> None:
    """One variant in this process: a round for every line on stdin, its CPU seconds on stdout."""
    from nsr_fast.config import Config
    from nsr_fast.run.build import prepare
    from nsr_fast.train import round as round_module
    from nsr_fast.train.loop import build_learner

    keys = {"model": folder, "data": folder / "data.jsonl", "output_dir": folder / variant}
    keys |= {"reward": f"{folder}/reward.py:half", "template": "none", "engine": "vllm"}
    keys |= {"num_generations": GENERATIONS, "max_num_seqs": PROMPTS * GENERATIONS}
    keys |= {"max_prompt_length": PROMPT_TOKENS, "max_completion_length": completion}
    keys |= {"cpu_threads": 1, "dtype": "float32", "prompts_per_round": PROMPTS}
    keys |= {"max_truncated": None, "constant_reward_rounds": None}  # a random policy
    config = Config.from_flat({k: str(v) if isinstance(v, Path) else v for k, v in keys.items()})
    config = Config.from_flat(config.flat() | VARIANTS[variant])
    inputs = prepare(config)
    learner = build_learner(config, inputs)
    round_module.time = SimpleNamespace(perf_counter=time.process_time)
    print("ready", flush=True)
    for line in sys.stdin:
        metrics = round_module.run_round(learner, int(line), inputs.prompts).metrics
        names = (*PHASES.values(), "num_tokens", "trained_tokens", "drift_mean")
        print(json.dumps({name: metrics[name] for name in names}), flush=True)
    learner.engine.close()


class Turns:
    """A process that serves one variant."""

    def __init__(self, folder: Path, variant: str, completion: int):
        command = [sys.executable, __file__, "--serve", variant, "--folder", str(folder)]
        self._process = subprocess.Popen(
            [*command, "--completion", str(completion)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def round(self, index: int) -> dict:
        self._process.stdin.write(f"{index}\n")
        self._process.stdin.flush()
        return json.loads(self._answer("{"))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, start: str) -> str:
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        raise RuntimeError(f"a variant ended early with {self._process.wait()}")


def compare(rounds: int, completion: int) -> dict:
    """Rounds in turns; the numbers of the result line."""
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        turns = {name: Turns(Path(folder), name, completion) for name in VARIANTS}
        seen = [
            {name: turn.round(index) for name, turn in turns.items()}
            for index in range(1, rounds + 2)
        ][1:]
        for turn in turns.values():
            turn.close()
    line = {"benchmark": "lora", "rounds": rounds, "rank": RANK}
    line |= {"num_tokens": seen[0]["full"]["num_tokens"]}
    line |= {"trained_tokens": [seen[0][name]["trained_tokens"] for name in VARIANTS]}
    for phase, key in PHASES.items():
        for name in VARIANTS:
            line[f"{phase}_cpu_s/{name}"] = median([turn[name][key] for turn in seen])
        for name in ("lora", "nf4"):
            line[f"{phase}_ratio/{name}"] = median([t[name][key] / t["full"][key] for t in seen])
    line["drift_mean"] = max(turn[name]["drift_mean"] for turn in seen for name in VARIANTS)
    return line


def median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--completion", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.serve, options.completion)
        return
    import torch

    from nsr_fast.bench.timing import append_lines, code_fields, machine_name

    line = compare(options.rounds, options.completion)
    device = {"device": machine_name(torch.device("cpu")), "threads": 1}
    append_lines(options.out, [line | device | {"torch": torch.__version__} | code_fields()])
    print(f"CPU seconds of a round, {line['num_tokens']} tokens sampled")
    for phase in PHASES:
        texts = [f"{name} {line[f'{phase}_cpu_s/{name}']:6.2f}" for name in VARIANTS]
        ratios = [f"{name} {line[f'{phase}_ratio/{name}']:.3f}" for name in ("lora", "nf4")]
        print(f"{phase:8}", *texts, "   ratio to full:", *ratios)


if __name__ == "__main__":
    main()
