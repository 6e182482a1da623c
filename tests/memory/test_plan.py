"""The plan's terms by hand, what it chooses, and what it refuses."""

import dataclasses

import pytest

from nsr_fast.errors import InputError
from nsr_fast.memory import limit, terms
from nsr_fast.memory.plan import Limits, Wishes, plan_memory, tokens_that_fit
from nsr_fast.memory.shape import model_shape
from nsr_fast.memory.table import plan_lines, plan_table
from nsr_fast.memory.terms import GIB, Setup
from nsr_fast.types import AdapterShape

GB = 10**9
QWEN_7B = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944}
QWEN_7B |= {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
QWEN_7B |= {"vocab_size": 152064, "tie_word_embeddings": False}
SMOL = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536}
SMOL |= {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
SMOL |= {"vocab_size": 49152, "tie_word_embeddings": True}
ON_24 = Limits(24 * GB, None, "device_memory_gb")
LARGE = Setup(model_shape(QWEN_7B), "cuda", 2, "vllm", longest=3072, sequences=256)
SMALL = Setup(model_shape(SMOL), "cpu", 4, "vllm", longest=300, sequences=128)


def planned(setup, gigabytes=24, **wishes):
    return plan_memory(setup, Wishes(**wishes), Limits(int(gigabytes * GB), None, "given"))


def refusal(setup, gigabytes=24, host=None, **wishes):
    with pytest.raises(InputError) as caught:
        plan_memory(setup, Wishes(**wishes), Limits(int(gigabytes * GB), host, "given"))
    return str(caught.value)


def test_seven_billion_parameters_on_24_gigabytes_term_by_term():
    setup = dataclasses.replace(LARGE, offload="gradients")
    plan = planned(setup)
    assert setup.shape.params == 7_615_616_512
    assert plan.always == {"weights": 2 * 7_615_616_512, "reserve": 3 * GIB // 2}
    update = plan.update()
    layer = 3584 * (3584 + 1024) + 3584**2 + 3 * 3584 * 18944 + 2 * 3584 + 3584 + 1024
    assert update["gradients"] == 4 * 152064 * 3584 + 2 * layer
    kept = 2 * 28 * 3584 + 2 * 3584 + 2 * 2 * 128 + 12
    one = 2 * (2 * 18944 + 2 * 3584 + 2 * 3584 + 2 * 512) + 4 * 28 + 8
    assert update["activations"] == plan.tokens * (kept + one + 4 * 3584 + 40)
    assert update["head tile"] == 640 << 20
    assert plan.rollout["KV cache"] == plan.kv_tokens * 2 * 2 * 28 * 512 + plan.kv_bytes % 57344
    assert plan.host == {"optimizer state and gradients": 16 * 7_615_616_512}
    assert plan.is_checkpointed and plan.tokens >= 3000 and plan.kv_tokens >= 90_000
    assert plan.peak() <= 24 * GB
    assert plan.peak() == sum(plan.always.values()) + max(
        sum(update.values()), sum(plan.rollout.values())
    )


@pytest.mark.parametrize(
    ("changes", "per_param"),
    [
        ({}, 12),
        ({"master_weights": "stochastic"}, 8),
        ({"optim": "adamw_8bit"}, 3.015625),
        ({"itemsize": 4}, 8),
        ({"adapter": AdapterShape(16)}, 12),
    ],
)
def test_masters_and_moments(changes, per_param):
    setup = dataclasses.replace(LARGE, **changes)
    assert terms.state_bytes(setup) == int(per_param * setup.trained_params)
    always = planned(setup, 400).always
    assert always["optimizer state"] == terms.state_bytes(setup)
    hosted = dataclasses.replace(setup, offload="optimizer")
    assert "optimizer state" not in planned(hosted, 400).always
    assert planned(hosted, 400).host["optimizer state and gradients"] > 0


def test_weights_and_gradients():
    shape = LARGE.shape
    assert terms.gradient_bytes(LARGE) == (2 * shape.params + 2 * shape.head_params, 0)
    own = dataclasses.replace(LARGE, share_weights=False)
    assert terms.weight_bytes(own) == 2 * terms.weight_bytes(LARGE) == 4 * shape.params
    nf4 = dataclasses.replace(LARGE, adapter=AdapterShape(16, quantize="nf4"))
    linear = 28 * shape.linear_params
    adapter = 2 * shape.adapter_params(16)
    assert terms.weight_bytes(nf4) == int(0.5625 * linear) + 2 * (shape.params - linear) + adapter
    assert terms.gradient_bytes(nf4) == (adapter, 0)
    assert planned(nf4).tokens > 3072


def test_float32_logits_take_four_bytes_up_to_the_same_tile():
    half = dataclasses.replace(SMALL, itemsize=2, valid_vocab=40_000)
    wide = dataclasses.replace(half, logits_itemsize=4)
    assert terms.tile_bytes(half, 300) == 300 * 40_000 * 2
    assert terms.tile_bytes(wide, 300) == 300 * 40_000 * 4
    assert terms.tile_bytes(wide, 3000) == 150 << 20
    assert terms.token_bytes(wide, False) == terms.token_bytes(half, False)


def test_activations_go_to_the_host_only_where_nothing_else_fits():
    setup = dataclasses.replace(LARGE, offload="gradients", longest=24_000, sequences=1)
    assert "activations of a sequence of 24,000 tokens" in refusal(setup)
    plan = planned(setup, activation_offload=None)
    assert plan.setup.activation_offload and plan.is_checkpointed and plan.tokens >= 24_000
    assert plan.host["activations"] == plan.pass_tokens * 2 * 28 * 3584
    assert "activation_offload true" in "".join(plan_lines(plan))
    roomy = planned(setup, 80, activation_offload=None)
    assert not roomy.setup.activation_offload
    assert "activation_offload" not in "".join(plan_lines(roomy))
    assert "24,000 tokens" in refusal(setup, gradient_checkpointing=False, activation_offload=None)
    assert planned(SMALL, activation_offload=True).is_checkpointed  # also where there is room


def test_the_cpu_keeps_the_cache_during_the_update():
    plan = planned(SMALL)
    assert plan.always["KV cache"] == plan.kv_bytes == 1 << 30
    assert plan.rollout.keys() == {"engine workspace"}
    grown = planned(dataclasses.replace(SMALL, engine="transformers"))
    assert grown.rollout["KV cache"] == 128 * 300 * 46080 and "KV cache" not in grown.always


def test_auto_prefers_no_checkpointing_and_a_thousand_tokens_on_the_cpu():
    roomy, tight = planned(SMALL), planned(SMALL, 4.2)
    assert (roomy.is_checkpointed, roomy.tokens) == (False, 1024)
    assert (tight.is_checkpointed, tight.tokens) == (True, 1024)
    assert tight.peak() <= 4.2 * GB < roomy.peak()
    long = planned(dataclasses.replace(SMALL, longest=3000))
    assert long.tokens == 3000
    few = planned(dataclasses.replace(SMALL, max_tokens=600))
    assert few.pass_tokens == 600


def test_given_numbers_stand():
    plan = planned(SMALL, micro_batch_tokens=4000, gradient_checkpointing=True, kv_bytes=1 << 28)
    assert (plan.tokens, plan.is_checkpointed, plan.kv_bytes) == (4000, True, 1 << 28)
    assert planned(SMALL, micro_batch_tokens=50).pass_tokens == 300  # a sequence goes alone
    assert planned(SMALL, 9, micro_batch_tokens=8000).is_checkpointed
    assert not planned(SMALL, 24, micro_batch_tokens=8000).is_checkpointed
    fits = tokens_that_fit(planned(SMALL), False)
    assert planned(SMALL, micro_batch_tokens=fits, gradient_checkpointing=False).tokens == fits
    words = refusal(SMALL, micro_batch_tokens=2 * fits, gradient_checkpointing=False)
    assert f"activations of a pass of {2 * fits:,} tokens" in words
    assert "gradient_checkpointing: true, or a lower micro_batch_tokens" in words


def test_the_prediction_follows_the_largest_pass():
    plan = planned(SMALL)
    token = terms.token_bytes(SMALL, False)
    assert plan.peak(900) - plan.peak(800) == pytest.approx(100 * token, abs=100 * 4 * 49152)
    assert plan.peak(900, True) < plan.peak(900)


@pytest.mark.parametrize(
    ("setup", "gigabytes", "wishes", "words"),
    [
        (LARGE, 12, {}, ["weights of 14.19 GiB", "quantize: nf4"]),
        (LARGE, 24, {}, ["optimizer state of 85.11 GiB", "offload: optimizer"]),
        (dataclasses.replace(LARGE, offload="optimizer"), 24, {}, ["gradients", "offload: grad"]),
        (
            dataclasses.replace(LARGE, offload="gradients", longest=16000),
            24,
            {},
            ["activations of a sequence of 16,000 tokens", "lower max_completion_length"],
        ),
        (SMALL, 4, {"kv_bytes": 3 << 30}, ["KV cache of 3.00 GiB", "lower kv_cache_gib"]),
        (SMALL, 24, {"kv_bytes": 1 << 20}, ["one sequence of 300 tokens", "raise kv_cache_gib"]),
        (
            dataclasses.replace(SMALL, engine="transformers", sequences=4096),
            24,
            {},
            ["KV cache", "lower max_num_seqs and max_completion_length"],
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_its_term_and_key(setup, gigabytes, wishes, words):
    said = refusal(setup, gigabytes, **wishes)
    assert said.startswith("memory: ") and "\n" not in said
    for word in words:
        assert word in said


def test_the_host_is_checked():
    setup = dataclasses.replace(LARGE, offload="gradients")
    assert "the host needs 113.48 GiB, it has 59.60 GiB free" in refusal(setup, host=64 * GB)
    assert plan_memory(setup, Wishes(), Limits(24 * GB, 128 * GB, "")).tokens > 3000


def test_tables_show_every_term():
    for plan in (planned(SMALL), planned(dataclasses.replace(LARGE, offload="gradients"))):
        short, long = "\n".join(plan_lines(plan)), "\n".join(plan_table(plan))
        for found in (plan.always, plan.update(), plan.rollout, plan.host):
            for term, size in found.items():
                assert f"{term} {size / GIB:.2f}" in short
                assert f"{term:32}{size / GIB:9.3f}" in long
        assert f"{plan.peak() / GIB:.2f} GiB" in short and f"{plan.tokens:,}" in long
        assert len(plan_lines(plan)) <= 12


def test_limit_is_the_smallest_of_machine_and_cgroups(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "status").write_text("VmHWM: 700 kB\nRssAnon: 500 kB\n")
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    for name, file in (("_MEMINFO", "meminfo"), ("_STATUS", "status"), ("_CGROUP", "cgroup")):
        monkeypatch.setattr(limit, name, tmp_path / file)
    monkeypatch.setattr(limit, "_CGROUP_ROOT", tmp_path / "fs")
    assert limit.host_free_bytes() == (8000 + 500) << 10
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1\n")
    (group.parent / "memory.max").write_text(f"{4000 << 10}\n")
    (group.parent / "memory.current").write_text(f"{3000 << 10}\n")
    (group.parent / "memory.stat").write_text(f"anon 5\ninactive_file {1000 << 10}\n")
    assert limit.host_free_bytes() == (2000 + 500) << 10
    version_1 = tmp_path / "fs" / "memory" / "c"
    version_1.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("4:cpu,memory:/c\n2:pids:/c\n")
    (version_1 / "memory.limit_in_bytes").write_text(f"{6000 << 10}\n")
    (version_1 / "memory.usage_in_bytes").write_text(f"{5500 << 10}\n")
    assert limit.host_free_bytes() == (500 + 500) << 10
