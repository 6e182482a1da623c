"""Where memory cannot be shared: the reason in words, and copies that are checked."""

import pytest
import torch
from engines import GREEDY, TEXTS, generate, load, prompts_of, start, take_step, worst_error
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

from nsr_fast.errors import GuardStop
from nsr_fast.rollout.shared_weights import LayoutUnknown, find_views
from nsr_fast.rollout.weights import EngineWeights, obstacle

pytestmark = pytest.mark.vllm


def test_an_engine_with_its_own_copy_follows_the_step(checkpoint):
    pytest.importorskip("vllm")
    folder = checkpoint("qwen2")
    model, tokenizer = load(folder)
    engine = start("vllm", folder, model, tokenizer, share_weights=False)
    (prompt,) = prompts_of(tokenizer, [TEXTS[0]])
    assert "share_weights is off" in engine.notes[0]
    assert worst_error(engine, model, prompt) < 1e-4
    take_step(model, 4)
    assert worst_error(engine, model, prompt) > 1e-2
    engine.weights_updated()
    assert worst_error(engine, model, prompt) < 1e-4
    engine.close()


def test_an_unknown_layout_is_named_and_copied_by_vllms_loader(tmp_path, checkpoint):
    pytest.importorskip("vllm")
    torch.manual_seed(0)
    _, tokenizer = load(checkpoint("qwen2"))
    config = GPT2Config(
        vocab_size=259, n_positions=512, n_embd=64, n_layer=2, n_head=2, eos_token_id=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    engine = start("vllm", tmp_path, model, tokenizer)
    assert "copied into the engine after each update (" in engine.notes[0]
    (prompt,) = prompts_of(tokenizer, [TEXTS[0]])
    assert worst_error(engine, model, prompt) < 1e-4
    take_step(model, 5)
    engine.weights_updated()
    assert worst_error(engine, model, prompt) < 1e-4
    (group,) = generate(engine, [prompt], GREEDY)
    ids = torch.tensor([prompt.token_ids])
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=2)
    assert list(group.rollouts[0].token_ids) == expected[0, ids.shape[1] :].tolist()
    engine.close()


class FusedLayer(nn.Module):
    """A part of an engine's model that is quantised or split over devices."""

    def __init__(self, **attributes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.__dict__.update(attributes)


class Fp8LinearMethod:
    """vLLM names the way a layer multiplies like this."""


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (FusedLayer(quant_method=Fp8LinearMethod()), "is quantised (Fp8LinearMethod)"),
        (FusedLayer(tp_size=2), "tensor parallelism splits"),
    ],
)
def test_quantised_or_split_engine_weights_are_an_obstacle(layer, words):
    engine = nn.Module()
    engine.qkv_proj = layer
    text = obstacle(engine)
    assert words in text and "the engine's qkv_proj" in text


def test_a_layout_with_rows_of_nobody_is_refused():
    trainer, engine = nn.Module(), nn.Module()
    trainer.proj, engine.proj = nn.Linear(4, 6, bias=False), nn.Linear(4, 8, bias=False)
    with pytest.raises(LayoutUnknown, match=r"6 of 8 rows of the engine's proj\.weight"):
        find_views(engine, trainer)
    engine.proj = nn.Linear(4, 6, bias=False).half()
    with pytest.raises(LayoutUnknown, match=r"proj\.weight: expected \(6, 4\) torch\.float32"):
        find_views(engine, trainer)


class FakeVllm:
    """vLLM's two doors into its model; reload_weights loads what it is given, or nothing."""

    def __init__(self, model: nn.Module, loads: bool):
        self.model, self.loads = model, loads

    def apply_model(self, function):
        return [function(self.model)]

    def collective_rpc(self, method: str, kwargs: dict) -> None:
        assert method == "reload_weights"
        given = dict(kwargs["weights_iterator"])
        if self.loads:
            self.model.proj.weight.data[:6] = given["proj.weight"]


def reloaded_weights(loads):
    """(what links them, trainer, engine's model) of a layout that cannot be shared."""
    trainer, engine = nn.Module(), nn.Module()
    trainer.proj, engine.proj = nn.Linear(4, 6, bias=False), nn.Linear(4, 8, bias=False)
    engine.proj.weight.data[:6] = trainer.proj.weight.data
    return EngineWeights(FakeVllm(engine, loads), trainer, share=True), trainer, engine


def test_a_reload_that_changes_nothing_stops_the_run():
    weights, trainer, _ = reloaded_weights(loads=False)
    weights.check()  # nothing to load yet
    trainer.proj.weight.data[0, 0] += 1.0
    with pytest.raises(GuardStop, match="policy and engine did not change together"):
        weights.check()


def test_a_reload_that_follows_the_trainer_passes():
    weights, trainer, engine = reloaded_weights(loads=True)
    assert "copied into the engine after each update (" in weights.note
    trainer.proj.weight.data[0, 0] += 1.0
    weights.check()
    assert torch.equal(engine.proj.weight[:6], trainer.proj.weight)
    engine.proj.weight.data[7, 0] += 1.0  # the engine's alone
    with pytest.raises(GuardStop, match="policy and engine did not change together"):
        weights.check()
