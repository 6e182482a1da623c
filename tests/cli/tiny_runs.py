"""Whole runs of `nsr-fast train` on a tiny random policy, in this process, and what they left.

The reward is a function in a user's file that records what it is called with; the engine is the
real one of transformers, wrapped so that its calls are seen and its stream may be changed.
"""

import importlib
import json
import re
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from cli import seams
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig

from nsr_fast.cli import main
from tests.checkpoints import write_checkpoint

STOPS = (2, *range(60, 100), *range(200, 220))  # of tokenizer, generation config and config
SETTINGS = {
    "engine": "transformers",
    "template": "none",
    "max_rounds": 1,
    "prompts_per_round": 2,
    "num_generations": 4,
    "max_completion_length": 8,
    "max_prompt_length": 40,
    "learning_rate": 1e-3,
    "cpu_threads": 1,
    # a random policy judged by the parity of a token is nothing that a guard could understand
    "max_truncated": "none",
    "max_no_answer": "none",
    "max_unscored": "none",
    "first_correct_rounds": "none",
}
# parity reads the first token of a completion: about half of them are right
REWARD = '''
import json
from pathlib import Path

RECORD = Path(__file__).with_name("calls.jsonl")

def record(prompts, ids, completion_ids, texts, finish_reason, rewards):
    keys = ("prompt", "id", "token_ids", "text", "finish_reason", "reward")
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in texts]
    if texts[0].endswith("boxed{0}."):  # the trial call
        return rewards
    rows = zip(prompts, ids, completion_ids, texts, finish_reason, rewards)
    with RECORD.open("a") as file:
        file.write(json.dumps([dict(zip(keys, row)) for row in rows]) + "\\n")
    return rewards

def parity(prompts, completions, completion_ids, id, finish_reason, **columns):
    rewards = [1.0 if ids[0] % 2 else -1.0 for ids in completion_ids]
    return record(prompts, id, completion_ids, completions, finish_reason, rewards)

def parity_of_problems(prompts, completions, completion_ids, id, finish_reason, **columns):
    """Trains nothing: the training rows (t...) are unscored."""
    rewards = [
        None if name.startswith("t") else 1.0 if ids[0] % 2 else -1.0
        for name, ids in zip(id, completion_ids)
    ]
    return record(prompts, id, completion_ids, completions, finish_reason, rewards)

def as_told(prompts, completions, completion_ids, id, finish_reason, before, after, **columns):
    """The k-th completion of a row gets the k-th reward of its column `before`, or `after` once a
    training row was scored."""
    has_trained = RECORD.exists() and '"id": "t' in RECORD.read_text()
    lists = after if has_trained else before
    seen = {}
    rewards = []
    for name, told in zip(id, lists):
        rewards.append(told[seen.get(name, 0)] if told else -1.0)
        seen[name] = seen.get(name, 0) + 1
    return record(prompts, id, completion_ids, completions, finish_reason, rewards)
'''


@dataclass(frozen=True)
class Run:
    """What one call of the command left."""

    code: int
    out: str
    err: str
    folder: Path
    scored: list[list[dict]]  # calls of the reward, one record a completion

    def lines(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def metrics(self):
        return self.lines("metrics.jsonl")

    @property
    def evaluations(self):
        return self.lines("eval.jsonl")

    def checkpoint(self, round_index):
        return self.folder / "checkpoints" / f"round-{round_index}"

    def weights(self, round_index):
        return load_file(self.checkpoint(round_index) / "model.safetensors")

    def trained(self):
        """The records of the training rows, in the order in which they were scored."""
        return [record for call in self.scored for record in call if record["id"][0] == "t"]


def write_policy(folder, family="qwen2", **changes):
    """A random checkpoint with three sources of stop ids, each with ids of its own."""
    write_checkpoint(folder, family, **changes)
    config = AutoConfig.from_pretrained(folder)
    config.eos_token_id = [2, *range(200, 220)]
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=[2, *range(60, 100)]).save_pretrained(folder)
    return folder


def train_rows(count=6):
    return [{"id": f"t{i}", "problem": f"{i}+{i}=", "answer": str(2 * i)} for i in range(count)]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_train(folder, model, *, rows=None, eval_rows=None, reward="parity", **settings):
    """One run in `folder` (made here); `reward` names a function of REWARD unless it has a path
    or is built in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    keys = {
        "model": model,
        "data": write_rows(folder / "train.jsonl", rows or train_rows()),
        "reward": named(folder, reward),
        "output_dir": folder / "run",
        **SETTINGS,
        **settings,
    }
    if keys["reward"] not in ("math", "code"):  # the key of functions of one's own
        keys.setdefault("constant_reward_rounds", "none")
    if eval_rows:
        keys["eval_data"] = write_rows(folder / "eval.jsonl", eval_rows)
        keys.setdefault("eval_num_samples", 4)
    given = {key: value for key, value in keys.items() if value is not None}
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["train", *words])
    calls = folder / "calls.jsonl"
    scored = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
    return Run(code, out.getvalue(), err.getvalue(), folder / "run", scored)


def named(folder, reward):
    """The setting `reward`: a built-in one, any with a path, or a function of REWARD."""
    is_whole = reward in (None, "math", "code") or ":" in reward
    return reward if is_whole else f"{folder}/reward.py:{reward}"


@dataclass
class Call:
    """One call of the engine's generate."""

    prompts: list
    sampling: object
    seeds: list[int]
    budget: object
    given: dict = field(default_factory=dict)  # (prompt, sample) -> the rollout that the run saw

    @property
    def is_training(self):
        return self.prompts[0].id.startswith("t")

    def seed_of(self):
        return {prompt.id: seed for prompt, seed in zip(self.prompts, self.seeds, strict=True)}


@dataclass
class Watched:
    """The calls that reached the engine, in their order."""

    calls: list[Call] = field(default_factory=list)

    def of_training(self):
        return [call for call in self.calls if call.is_training]

    def of_evaluation(self):
        return [call for call in self.calls if not call.is_training]


@contextmanager
def watched_engine(change=lambda call, stream: stream):
    """Watch generate; `change(call, stream)` gives the stream that the run sees, from the list of
    the real one."""
    module_name, class_name, method = seams.ENGINE_GENERATE.rsplit(".", 2)
    owner = getattr(importlib.import_module(module_name), class_name)
    real, watched = getattr(owner, method), Watched()

    def generate(self, prompts, sampling, seeds, *budget, **options):
        limit = budget[0] if budget else options.get("budget")
        call = Call(list(prompts), sampling, list(seeds), limit)
        watched.calls.append(call)
        stream = list(real(self, prompts, sampling, seeds, *budget, **options))
        for prompt, sample, rollout in change(call, stream):
            call.given[prompt, sample] = rollout
            yield prompt, sample, rollout

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, generate)
        yield watched


def completed(run, met=frozenset()):
    """The run, which ended well; of its guards, those in `met` had something to say."""
    assert run.code == 0, (run.err[-2000:], run.out[-500:])
    assert set(re.findall(r"\bguard (\w+) \(\w+\)", run.out)) == set(met), run.out[-2000:]
    return run
