"""The engine's own layers: slices of fused layers, their bytes, and copies that follow a step."""

import pytest
import torch
from checkpoints import write_checkpoint
from engines import prompts_of, start, worst_error

from nsr_fast.config_groups import ModelKeys
from nsr_fast.model.adapter import adapted_layers, init_adapters
from nsr_fast.model.load import load_policy, load_tokenizer
from nsr_fast.types import LINEARS, AdapterShape

pytestmark = pytest.mark.vllm

TEXT = "What is 12 + 30?"
SOME = ("k_proj", "up_proj")  # neither is the first slice of its layer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Qwen2, whose q, k and v have biases."""
    return write_checkpoint(tmp_path_factory.mktemp("qwen2"), "qwen2", intermediate_size=128)


@pytest.fixture
def started(folder):
    """started(shape, ...) -> (engine, policy, prompt); closed at the end of the test."""
    pytest.importorskip("vllm")
    engines = []

    def make(shape, *, share=True):
        keys = ModelKeys(model=str(folder), dtype="float32")
        policy = load_policy(keys, shape, is_empty=share)
        tokenizer = load_tokenizer(str(folder))
        engine = start("vllm", folder, policy, tokenizer, adapter=shape, share_weights=share)
        engines.append(engine)
        init_adapters(policy, 0)
        (prompt,) = prompts_of(tokenizer, [TEXT])
        return engine, policy, prompt

    yield make
    for engine in engines:
        engine.close()


def draw_b(policy, std=0.3):
    """Adapters that change the logprobs by more than any rounding."""
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in adapted_layers(policy).values():
            layer.lora_B.normal_(std=std)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        AdapterShape(3, 1.5, SOME),
        AdapterShape(2, 0.5, LINEARS, "nf4"),
        AdapterShape(3, 1.5, ("v_proj", "gate_proj", "o_proj"), "nf4"),
    ],
    ids=["k-up", "nf4", "nf4-v-gate-o"],
)
def test_each_adapter_acts_on_its_own_slice(started, shape, share):
    engine, policy, prompt = started(shape, share=share)
    policy.set_attn_implementation("sdpa")
    engine.weights_updated()
    assert worst_error(engine, policy, prompt) < 1e-4
    draw_b(policy)
    if not share:  # the engine's copy is the old one until it is told
        assert worst_error(engine, policy, prompt) > 1e-2
    engine.weights_updated()
    assert worst_error(engine, policy, prompt) < 1e-4
    for layer in adapted_layers(policy).values():
        layer.is_active = False
    assert worst_error(engine, policy, prompt) > 1e-2


def test_the_engine_holds_4_5_bits_a_parameter(started):
    """Of the projections; embedding, norms and biases stay as they are."""
    engine, policy, _ = started(AdapterShape(2, quantize="nf4"))

    def held(model):
        sizes = {name: p.nbytes for name, p in model.named_parameters()}
        fused = [n for n in sizes if "_proj." in n and ".lora_" not in n and "bias" not in n]
        return {
            "packed": sum(sizes[name] for name in fused),
            "kinds": {name.rpartition(".")[2] for name in fused},
            "lora": sum(size for name, size in sizes.items() if ".lora_" in name),
            "all": sum(sizes.values()),
        }

    (sizes,) = engine._llm.apply_model(held)
    elements = lora = 0
    for name, module in policy.named_modules():
        if name.rpartition(".")[2] in LINEARS:
            elements += module.in_features * module.out_features
            lora += 2 * (module.in_features + module.out_features)
    assert sizes["packed"] == 0.5625 * elements and sizes["kinds"] == {"weight", "absmax"}
    assert sizes["lora"] == 4 * lora
    embedding = policy.model.embed_tokens.weight.numel()
    rest = sizes["all"] - sizes["packed"] - sizes["lora"] - 4 * embedding
    # norms, biases of q, k, v, and the embedding's rows that vLLM pads
    assert rest == 4 * (5 * 64 + 2 * (64 + 2 * 32) + (320 - 259) * 64)
