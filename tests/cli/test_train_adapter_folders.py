"""An adapter's folder as `model`: continued where it ended, or refused in one line before a weight
is loaded."""

import json
import shutil

import pytest
import torch
from cli.adapter_runs import (
    ALPHA,
    RANK,
    load_plain,
    logits_in_peft,
    logits_of,
    train_adapters,
    write_base,
)
from cli.tiny_runs import run_train, watched_engine
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from nsr_fast.cli import main

KEYLESS = {"lora_rank": None, "lora_alpha": None, "max_rounds": 1}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    """A run that leaves an adapter on q_proj and down_proj."""
    targets = {"lora_targets": "q_proj,down_proj"}
    return train_adapters(tmp_path_factory.mktemp("first"), base, **targets)


@pytest.fixture
def folder(first, tmp_path):
    """A copy of the adapter to be damaged."""
    return shutil.copytree(first.adapter, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("engine", "share"),
    [
        ("transformers", None),  # it has no copy of its own
        pytest.param("vllm", None, marks=pytest.mark.vllm),
        pytest.param("vllm", "false", marks=pytest.mark.vllm),
    ],
)
def test_the_first_round_samples_from_the_saved_adapter(first, tmp_path, engine, share):
    """Its sampler's logprobs are those of PEFT's model, whoever samples."""
    keys = {**KEYLESS, "share_weights": share, "learning_rate": 1e-9, "weight_decay": 0}
    done = train_adapters(tmp_path, first.adapter, engine, **keys)
    (metrics,) = done.run.metrics
    assert metrics["drift_max"] < 1e-4 and metrics["trained_tokens"] > 0
    theirs, ours = first.saved(), done.saved()
    assert theirs.keys() == ours.keys() and len(ours) == 2 * 2 * 2
    for name, tensor in theirs.items():  # a step of 1e-9 later
        assert torch.allclose(ours[name], tensor, rtol=0, atol=1e-8)
    assert float((done.logits() - logits_in_peft(first.base, first.adapter)).abs().max()) < 1e-5
    config = json.loads((done.adapter / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)
    assert config["target_modules"] == ["q_proj", "down_proj"]
    assert config["base_model_name_or_path"] == str(first.base)


def test_the_continued_sampler_has_the_logprobs_of_the_saved_adapter(first, tmp_path):
    with watched_engine() as watched:
        train_adapters(tmp_path, first.adapter, **KEYLESS)
    (call,) = watched.of_training()
    for (index, _), rollout in list(call.given.items())[:4]:
        prompt = call.prompts[index].token_ids
        ids = torch.tensor([[*prompt, *rollout.token_ids]])
        logits = logits_in_peft(first.base, first.adapter, ids=ids)[0, len(prompt) - 1 : -1]
        chosen = torch.tensor(rollout.token_ids)[:, None]
        want = logits.log_softmax(-1).gather(1, chosen)[:, 0]
        assert torch.allclose(torch.tensor(rollout.sampler_logprob), want, atol=1e-5)


def test_an_adapter_that_peft_made_is_continued(base, tmp_path):
    """rank-stabilised: its scale is alpha / sqrt(r)."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["v_proj", "up_proj"])
    model = get_peft_model(load_plain(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "peft")
    keys = {**KEYLESS, "learning_rate": 1e-9}
    done = train_adapters(tmp_path / "run", tmp_path / "peft", **keys)
    want = logits_of(model.base_model.model)
    assert float((want - logits_of(load_plain(base))).abs().max()) > 1e-2
    assert float((done.logits() - want).abs().max()) < 1e-5
    assert float((logits_in_peft(base, done.adapter) - want).abs().max()) < 1e-5


def test_the_same_keys_may_be_given_again(first, tmp_path):
    keys = {"lora_rank": RANK, "lora_alpha": ALPHA, "lora_targets": "down_proj,q_proj"}
    again = run_train(tmp_path, first.adapter, dry_run="true", **keys)
    assert again.code == 0, again.err


def refused(folder, tmp_path, *parts, **settings):
    """By the dry run, which loads nothing: one line."""
    run = run_train(tmp_path / "refused", folder, dry_run="true", **settings)
    assert run.code == 2 and len(run.err.splitlines()) == 1, run.err
    for part in parts:
        assert part in run.err, run.err
    assert "Traceback" not in run.err


@pytest.mark.parametrize(
    "keys",
    [
        {"lora_rank": 8},
        {"lora_rank": RANK},
        {"lora_rank": RANK, "lora_alpha": ALPHA, "lora_targets": "q_proj"},
    ],
)
def test_other_keys_than_the_adapters_are_refused(first, tmp_path, keys):
    held = f"has rank {RANK}, alpha {ALPHA} and targets q_proj, down_proj"
    refused(
        first.adapter, tmp_path, "lora_rank: the adapter", held, "remove the lora_ keys", **keys
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"use_dora": True}, ["uses use_dora", "merge it"]),
        ({"modules_to_save": ["lm_head"]}, ["uses modules_to_save"]),
        ({"rank_pattern": {"q_proj": 8}}, ["uses rank_pattern"]),
        ({"bias": "all"}, ["uses bias"]),
        ({"peft_type": "IA3"}, ["expected a LORA adapter, got IA3"]),
        ({"r": None}, ["expected r above 0, got None"]),
        ({"lora_alpha": 0}, ["expected lora_alpha above 0, got 0"]),
        ({"base_model_name_or_path": None}, ["names no base_model_name_or_path"]),
        ({"base_model_name_or_path": "/no/such/base"}, ["/no/such/base", "no config.json"]),
        ({"r": 8}, ["layers.0", "lora_A.weight: expected [8, ", "got [4, "]),
    ],
)
def test_a_config_that_cannot_be_continued(folder, tmp_path, changes, parts):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))
    refused(folder, tmp_path, "model: ", *parts)


def test_a_config_that_is_no_json(folder, tmp_path):
    (folder / CONFIG).write_text("{")
    refused(folder, tmp_path, "adapter_config.json is not JSON")


def test_missing_or_broken_weights(folder, tmp_path):
    (folder / WEIGHTS).write_bytes(b"no tensors")
    refused(folder, tmp_path, "adapter_model.safetensors cannot be read")
    (folder / WEIGHTS).unlink()
    refused(folder, tmp_path, f"holds {CONFIG} but no {WEIGHTS}")


def test_tensors_that_the_base_lacks_or_the_adapter(folder, tmp_path):
    saved = load_file(folder / WEIGHTS)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    kept = {key: value for key, value in saved.items() if key != name}
    save_file(kept, folder / WEIGHTS)
    refused(folder, tmp_path, f"{name} is in the model only")
    other = name.replace("layers.1", "layers.7")
    save_file({**saved, other: saved[name].clone()}, folder / WEIGHTS)
    refused(folder, tmp_path, f"{other} is in the adapter only")
    other = name.replace("self_attn.q_proj.lora_B", "mlp.router.lora_A")
    save_file({**saved, other: saved[name].clone()}, folder / WEIGHTS)
    refused(folder, tmp_path, "adapts router; expected some of q_proj, ")


def test_a_base_without_weights(first, tmp_path):
    copy = shutil.copytree(first.base, tmp_path / "base")
    (copy / "model.safetensors").unlink()
    folder = shutil.copytree(first.adapter, tmp_path / "adapter")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": str(copy)}))
    run = run_train(tmp_path / "run", folder)
    assert run.code == 2 and "cannot load its weights" in run.err


def test_offload_and_the_plan_know_the_base_of_an_adapter(first, tmp_path):
    """The run that continues in host memory takes the steps of the one on the device."""
    same = {**KEYLESS, "gradient_checkpointing": "true"}
    plain = train_adapters(tmp_path / "plain", first.adapter, **same)
    hosted = train_adapters(tmp_path / "host", first.adapter, offload="gradients", **same)
    for name, tensor in plain.saved().items():
        assert torch.allclose(hosted.saved()[name], tensor, atol=1e-7)
        assert not torch.equal(first.saved()[name], tensor)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["{adapter}"], "write nsr-fast merge ADAPTER_DIR OUT_DIR"),
        (["{adapter}", "{out}", "--dtype", "int8"], "expected float32 or bfloat16, got 'int8'"),
        (["{base}", "{out}"], "holds no adapter_config.json"),
        (["{adapter}", "{base}"], "is not an empty folder"),
    ],
)
def test_merge_refuses(first, tmp_path, capsys, words, part):
    names = {"adapter": first.adapter, "base": first.base, "out": tmp_path / "out"}
    assert main(["merge", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert part in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_merged_weights_are_the_sum_in_either_dtype(first, tmp_path):
    saved, plain = first.saved(), load_file(first.base / "model.safetensors")
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        assert main(["merge", str(first.adapter), str(out), "--dtype", dtype]) == 0
        merged = load_file(out / "model.safetensors")
        assert merged.keys() == plain.keys()
        for name, weight in plain.items():
            key = f"base_model.model.{name.removesuffix('.weight')}"
            want = weight
            if f"{key}.lora_A.weight" in saved:
                a, b = (saved[f"{key}.lora_{kind}.weight"] for kind in "AB")
                want = weight + ALPHA / RANK * (b @ a)
                assert not torch.equal(merged[name].float(), weight)
            assert torch.equal(merged[name], want.to(getattr(torch, dtype))), name


def test_an_adapter_of_nf4_is_not_continued_on_plain_weights(base, tmp_path):
    qlora = train_adapters(tmp_path / "first", base, quantize="nf4")
    refused(qlora.adapter, tmp_path, "quantize: the adapter", "in nf4, got none; set quantize: nf4")
    keys = {**KEYLESS, "learning_rate": 1e-9, "quantize": "nf4"}
    again = train_adapters(tmp_path / "again", qlora.adapter, **keys)
    assert float((again.logits() - qlora.logits()).abs().max()) < 1e-6
