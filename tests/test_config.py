"""Settings: groups, keys that nothing reads, and the resolved file of a run."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from cli.tiny_runs import completed, run_train, write_policy

from nsr_fast.cli import main
from nsr_fast.config import FIELDS, GROUP_OF, Config
from nsr_fast.errors import InputError
from nsr_fast.objective import Objective
from nsr_fast.types import Sampling

REQUIRED = {"model": "m", "data": "d", "output_dir": "o"}
ROOM = Path(__file__).parents[1] / "nsr_fast"
# key: a value of its own, and what makes it read
NEEDS = {
    "psr_weight": (0.3, {"objective": "w_reinforce"}),
    "objective_kwargs": ({"k": 2}, {"objective": "pkpo"}),
    "epsilon": (0.3, {"minibatches": 2}),
    "epsilon_high": (0.3, {"minibatches": 2}),
    "extract": ("lenient", {"reward": "math"}),
    "drop_bad_golds": (True, {"reward": "a.py:f * 0.5, code"}),
    "unsafe": (True, {"reward": "math * 0.5, code"}),
    "correct_by": ("code", {"reward": "math, code"}),
    "reward_timeout_s": (2.5, {"reward": "a.py:f"}),
    "constant_reward_rounds": (2, {"reward": "a.py:f, math"}),
    "chat_template_kwargs": ({"enable_thinking": False}, {"template": "chat"}),
    "system_prompt": ("Be brief.", {"template": "qwen"}),
    "master_weights": ("stochastic", {"dtype": "auto"}),
    "logits_dtype": ("float32", {"dtype": "bfloat16"}),
    "activation_offload": (True, {"gradient_checkpointing": True}),
    "lora_alpha": (8.0, {"lora_rank": 4}),
    "lora_targets": (["q_proj"], {"lora_rank": 4}),
    "share_weights": (False, {"engine": "auto"}),
    "gpu_memory_utilization": (0.4, {"engine": "vllm"}),
    "kv_cache_gib": (1.0, {"engine": "vllm"}),
    "save_best": ("pass_at_1", {"eval_data": "e"}),
    "max_pass_at_1_drop": (0.1, {"eval_data": "e"}),
    "eval_rounds": (2, {"eval_data": "e"}),
    "eval_num_prompts": (2, {"eval_data": "e"}),
    "eval_num_samples": (2, {"eval_data": "e"}),
    "eval_temperature": (0.5, {"eval_data": "e"}),
    "eval_top_p": (0.5, {"eval_data": "e"}),
}
UNREAD = REQUIRED | {"reward": "countdown", "dtype": "float32", "engine": "transformers"}
UNREAD |= {"template": "none", "gradient_checkpointing": False}


def test_a_group_has_at_most_twelve_keys_and_a_key_one_group():
    groups = [group.annotation.model_fields for group in Config.model_fields.values()]
    assert max(map(len, groups)) <= 12
    assert sum(map(len, groups)) == len(FIELDS) == len(GROUP_OF)


@pytest.mark.parametrize("key", NEEDS)
def test_a_key_that_nothing_reads_is_refused(key):
    value, makes_it_read = NEEDS[key]
    with pytest.raises(InputError, match=f"^{key}: needs .*; nothing else reads it, so remove it"):
        Config.from_flat({**UNREAD, key: value})
    config = Config.from_flat({**UNREAD, key: value, **makes_it_read})
    assert config.flat()[key] == value
    assert key not in Config.from_flat(UNREAD).flat()


def test_every_rule_about_unread_keys_is_tried_above():
    assert Config.from_flat(UNREAD).unused().keys() == NEEDS.keys()


def test_masters_in_host_memory_are_not_also_somewhere_else(capsys):
    """The key's value of before names the key that took its place."""
    required = REQUIRED | {"dtype": "bfloat16", "master_weights": "stochastic"}
    with pytest.raises(InputError, match=r"^master_weights: needs offload: none; "):
        Config.from_flat({**required, "offload": "optimizer"})
    words = [word for key, value in REQUIRED.items() for word in (f"--{key}", value)]
    assert main(["train", *words, "--master_weights", "host"]) == 2
    assert "copies in host memory: offload), got 'host'" in capsys.readouterr().err


def test_8bit_moments_have_no_masters():
    given = REQUIRED | {"dtype": "bfloat16", "optim": "adamw_8bit"}
    assert "master_weights" not in Config.from_flat(given).flat()
    with pytest.raises(InputError, match=r"^master_weights: needs optim: adamw; "):
        Config.from_flat({**given, "master_weights": "stochastic"})


def test_flat_gives_the_same_settings_back():
    values = REQUIRED | {"minibatches": 3, "epsilon": 0.1, "eval_data": "e", "eval_num_samples": 4}
    config = Config.from_flat(values)
    assert Config.from_flat(config.flat()) == config
    assert config.objective.epsilon == 0.1 and config.eval.eval_num_samples == 4


def test_every_key_has_a_reader():
    source = "\n".join(
        path.read_text() for path in ROOM.rglob("*.py") if path.name != "config_file.py"
    )
    whole = {field.name for kind in (Sampling, Objective) for field in dataclasses.fields(kind)}
    unread = [key for key in FIELDS if not re.search(rf"\.{key}\b", source) and key not in whole]
    assert unread == []


def test_the_command_line_names_the_key_and_what_it_needs(capsys):
    words = [word for key, value in REQUIRED.items() for word in (f"--{key}", value)]
    assert main(["train", *words, "--epsilon", "0.2"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "nsr-fast: epsilon: needs minibatches above 1; nothing else reads it, so remove it\n"
    )


def test_the_resolved_settings_of_a_run_train_it_again(tmp_path):
    """config.yaml holds every key that is read, so that it is accepted and gives the same run."""
    policy = write_policy(tmp_path / "policy")
    first = completed(run_train(tmp_path / "first", policy, minibatches=2, epsilon=0.3))
    file = first.folder / "config.yaml"
    keys = yaml.safe_load(file.read_text())
    assert keys["epsilon"] == 0.3 and "psr_weight" not in keys and len(keys) > 35
    again = tmp_path / "again"
    assert main(["train", "--config", str(file), "--output_dir", str(again)]) == 0
    weights = (folder / "checkpoints/round-1/model.safetensors" for folder in (first.folder, again))
    assert next(weights).read_bytes() == next(weights).read_bytes()
