"""Every bad input ends in one clear line and exit code 2, before a model is loaded."""

import json
import re

import pytest
from cli import seams

from nsr_fast.cli import main


@pytest.fixture
def run(tmp_path, checkpoint, capsys, monkeypatch):
    """run(rows=..., key=value) -> exit code, error lines and output of a dry run."""
    folder = checkpoint("qwen2")
    loaded = []

    def load_policy(*_, **__):
        loaded.append(True)
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(seams.LOAD_POLICY, load_policy)

    def call(rows=({"prompt": "1+1", "answer": "2"},), config_text=None, **keys):
        data = tmp_path / "data.jsonl"
        if rows is not None:
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {
            "model": folder,
            "data": data,
            "output_dir": tmp_path / "run",
            "template": "none",
            "max_completion_length": 8,
            "max_prompt_length": 32,
            "dry_run": "true",
            **keys,
        }
        words = [w for k, v in settings.items() if v is not None for w in (f"--{k}", str(v))]
        plain = list(words)
        if keys.get("dry_run", "true") == "true":
            at = plain.index("--dry_run")
            del plain[at : at + 2]
        if config_text is not None:
            (tmp_path / "c.yaml").write_text(config_text)
            words += ["--config", str(tmp_path / "c.yaml")]
            plain += ["--config", str(tmp_path / "c.yaml")]
        code = main(["train", *words])
        captured = capsys.readouterr()
        if code:  # the run itself ends there too
            assert main(["train", *plain]) == code and not loaded
            capsys.readouterr()
        return code, captured.err.strip().splitlines(), captured.out

    return call


def refused(result, *parts):
    code, lines, _ = result
    assert code == 2
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0], lines[0]


def test_valid_settings_pass_the_dry_run_and_write_nothing(run, tmp_path):
    code, lines, out = run()
    assert (code, lines) == (0, [])
    assert "1 prompts of 3 to 3 tokens" in out
    assert not (tmp_path / "run").exists()


def test_missing_file(run):
    refused(run(data="no/such.jsonl"), "no/such.jsonl")


def test_empty_data(run):
    refused(run(rows=()), "data.jsonl")


def test_row_without_answer(run):
    rows = [{"prompt": "1+1", "answer": "2"}, {"prompt": "2+2"}]
    refused(run(rows=rows), "data.jsonl", "2", "answer")


def test_answer_that_the_reward_cannot_use(run):
    rows = [{"id": "bad", "prompt": "25,7>32:", "answer": "32"}]
    refused(run(rows=rows, reward="countdown"), "'bad'", "numbers", "'32'")
    refused(run(rows=[{"id": "void", "prompt": "?", "answer": ""}]), "'void'", "drop_bad_golds")
    rows = [{"id": "odd", "prompt": "?", "tests": "none"}]
    refused(run(rows=rows, reward="code"), "'odd'", "tests cannot be read", "drop_bad_golds")


def test_prompt_over_the_limit_names_row_and_cure(run):
    rows = [{"id": "long-one", "prompt": "x" * 33, "answer": "2"}]
    refused(run(rows=rows), "long-one", "33", "32", "max_prompt_length")


def test_unknown_key_names_the_nearest(run):
    refused(run(learning_rat="1e-5"), "'learning_rat'", "'learning_rate'")
    refused(run(config_text="temprature: 1.0\n"), "'temprature'", "c.yaml", "'temperature'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "fast"),
        ("num_generations", "2.5"),
        ("num_generations", "0"),
        ("temperature", "-1"),
        ("objective", "npr"),
        ("template", "chatml"),
        ("overwrite", "perhaps"),
    ],
)
def test_wrong_type_or_value_names_key_and_value(run, key, value):
    refused(run(**{key: value}), key, "expected", repr(value))


def test_required_key_missing(run):
    refused(run(data=None), "data: required")


def test_model_directory_without_a_checkpoint(run, tmp_path):
    refused(run(model=tmp_path), "no config.json")


def test_model_of_another_family(run, tmp_path):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    refused(run(model=tmp_path / "gpt"), "gpt2", "qwen2, qwen3, llama")


def test_output_directory_that_holds_a_run_is_kept(run, tmp_path):
    (tmp_path / "run").mkdir()
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("{}\n")
    refused(run(), "already holds a run", "--overwrite")
    assert metrics.read_text() == "{}\n"
    assert run(overwrite="true")[0] == 0
    assert metrics.read_text() == "{}\n"  # a dry run deletes nothing either


def test_reward_that_cannot_be_loaded(run, tmp_path):
    refused(run(reward="no_such_module:f"), "no_such_module")
    (tmp_path / "r.py").write_text("def g(prompts, completions, completion_ids): return []\n")
    refused(run(reward=f"{tmp_path}/r.py:f"), "f", "r.py")


def test_evaluation_rounds_without_evaluation_data(run):
    refused(run(eval_rounds="5"), "eval_rounds", "eval_data")


def test_words_that_are_no_options(capsys):
    for words, part in [
        (["train", "model"], "--key value"),
        (["train", "--model"], "value is missing"),
        (["train", "--seed", "1", "--seed", "2"], "given twice"),
        (["train", "--config", "none.yaml"], "no such file"),
        (["fly"], "unknown verb 'fly'"),
        (["report"], "one run directory"),
    ]:
        assert main(words) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and part in error[0], error


def test_info_names_versions_devices_and_reasons(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "torch", "transformers", "gpu", "backend", "reference", "vllm"):
        assert word in out
    assert re.search(r"backend +cpu +available", out)


@pytest.mark.parametrize("truncation", [{"top_p": 0.9}, {"top_k": 20}])
def test_truncated_sampling_with_importance_ratios(run, truncation):
    key = next(iter(truncation))
    refused(run(**truncation, importance_sampling_cap=2.0), key, "importance_sampling_cap")
    assert run(**truncation)[0] == 0


def test_unknown_engine(run):
    refused(run(engine="sglang"), "engine: expected", "'vllm'", "'sglang'")


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay", "kv_cache_gib"])
def test_infinite_numbers(run, key):
    refused(run(**{key: "inf"}), f"{key}: expected", "finite", "'inf'")


def test_output_dir_below_a_file_and_empty(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run(output_dir=tmp_path / "file" / "run"), "output_dir", "file is a file")
    refused(run(output_dir=""), "output_dir: expected")


def test_drift_limit_with_truncated_sampling(run):
    refused(run(top_p=0.5, drift_limit=1e-3), "drift_limit 0.001", "top_p 0.5")


def test_model_of_an_architecture_that_transformers_does_not_know(run, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text(json.dumps({"model_type": "foo"}))
    refused(run(model=tmp_path / "new"), "model: ", "`foo`")


def test_model_without_tokenizer_files(run, tmp_path, checkpoint):
    (tmp_path / "bare").mkdir()
    config = (checkpoint("qwen2") / "config.json").read_text()
    (tmp_path / "bare" / "config.json").write_text(config)
    refused(run(model=tmp_path / "bare"), "model: ", "tokenizer")


def test_eval_data_is_named_in_its_errors(run):
    refused(run(eval_data="no/such.jsonl"), "eval_data: no/such.jsonl")


@pytest.mark.parametrize(
    "keys, row, what",
    [
        ({}, {"prompt": "x" * 99, "answer": "1"}, "99 tokens"),
        ({}, {"prompt": "1+1", "answer": "\\frac{"}, "cannot be used as golds"),
        ({"reward": "countdown"}, {"prompt": "p", "answer": "25,7"}, "'25,7'"),
    ],
)
def test_eval_rows_are_told_from_training_rows(run, tmp_path, keys, row, what):
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    good = {"prompt": "p", "answer": "25,7,3>54"} if keys else {"prompt": "1+1", "answer": "2"}
    refused(run(rows=[good], eval_data=tmp_path / "test.jsonl", **keys), "eval_data: ", what)


def test_a_flag_without_its_value(run, capsys):
    assert main(["train", "--dry_run", "--model", "m"]) == 2
    assert "--dry_run: a value is missing; write --dry_run true" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["report", "check", "info"])
def test_verbs_without_options_show_the_usage(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert "usage: nsr-fast VERB" in capsys.readouterr().out
