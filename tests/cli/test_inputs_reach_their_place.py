"""Settings of data, reward and vLLM change what a run reads and starts."""

import dataclasses
from importlib.util import find_spec

import pytest
from cli import seams
from cli.tiny_runs import STOPS, completed, run_train, train_rows, watched_engine, write_policy

from nsr_fast.errors import EngineFailure
from nsr_fast.types import PLAIN


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize(("extract", "is_right"), [("boxed", 0.0), ("lenient", 1.0)])
def test_extract(policy, tmp_path, extract, is_right):
    def stated(call, stream):
        for prompt, sample, rollout in stream:
            text = f"The answer is {call.prompts[prompt].answer}."
            yield prompt, sample, dataclasses.replace(rollout, text=text)

    with watched_engine(stated):
        run = completed(run_train(tmp_path, policy, reward="math", extract=extract))
    assert run.metrics[0]["reward"] == is_right


def test_drop_bad_golds(policy, tmp_path):
    rows = [*train_rows(3), {"id": "t9", "problem": "?", "answer": ""}]
    keys = {"rows": rows, "reward": "math", "dry_run": "true"}
    refused = run_train(tmp_path / "kept", policy, **keys)
    assert refused.code == 2 and "'t9'" in refused.err
    run = completed(run_train(tmp_path / "dropped", policy, drop_bad_golds="true", **keys))
    assert "3 prompts of 4 to 4 tokens" in run.out


@pytest.mark.parametrize(
    ("template", "text"),
    [("none", "{}"), ("qwen", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>")],
)
def test_template(policy, tmp_path, template, text):
    keys = {"template": template, "max_prompt_length": 400}
    run = completed(run_train(tmp_path, policy, **keys))
    problems = {row["id"]: row["problem"] for row in train_rows()}
    records = run.lines("rollouts/round-1.jsonl")
    assert len(records) == 8
    for record in records:
        assert record["prompt"].startswith(text.format(problems[record["id"]]))
        assert problems[record["id"]] in record["prompt"]


def test_max_prompt_length(policy, tmp_path):
    assert run_train(tmp_path / "a", policy, max_prompt_length=4, dry_run="true").code == 0
    refused = run_train(tmp_path / "b", policy, max_prompt_length=3, dry_run="true")
    assert refused.code == 2 and "raise max_prompt_length to 4" in refused.err


# 2 prompts x 4 generations, each of a 4-token prompt and 8 more: a block of 32 and one beside it; a
# token has 2 x 2 layers x 1 head x 32 numbers of 4 bytes. At least one sequence of 48 tokens.
AUTO_KV_BYTES = max(8 * 64, 96) * 2 * 2 * 32 * 4


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.parametrize(("gib", "num_bytes"), [(0.5, 1 << 29), ("auto", AUTO_KV_BYTES)])
def test_settings_that_only_vllm_reads(policy, tmp_path, monkeypatch, gib, num_bytes):
    """The engine's constructor is replaced by one that tells what it was asked for."""
    asked = {}

    def refuse(model_dir, trainer, tokenizer, **options):
        asked.update(options)
        raise EngineFailure("not started")

    monkeypatch.setattr(seams.VLLM_ENGINE, refuse)
    keys = {"engine": "vllm", "share_weights": "false", "gpu_memory_utilization": 0.7}
    keys |= {"kv_cache_gib": gib, "max_num_seqs": 17, "seed": 5}
    run = run_train(tmp_path, policy, **keys)
    assert (run.code, run.err) == (1, "nsr-fast: not started\n")
    assert asked == {
        "share": False,
        "gpu_memory_utilization": 0.7,
        "kv_cache_bytes": num_bytes,
        "adapter": PLAIN,
        "logits_dtype": None,
        "max_num_seqs": 17,
        "max_model_len": 40 + 8,
        "seed": 5,
        "vocab": 259,
        "stop_token_ids": sorted(STOPS),
    }
