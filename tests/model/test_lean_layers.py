"""Norms and MLPs that keep less: transformers' numbers, and the bytes of the formula."""

import copy

import pytest
import torch
from model.layers import (
    FAMILIES,
    LENGTHS,
    formula_bytes,
    gradients,
    largest_error,
    small_model,
    trunk,
)
from torch import nn
from torch.nn.functional import linear, silu

from nsr_fast.config_groups import ModelKeys
from nsr_fast.model.lean_layers import lean_layers, rms_norm, silu_mul
from nsr_fast.model.load import load_policy
from nsr_fast.model.recompute import lean_linear

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def test_gradients_of_the_norm_are_right_in_float64():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), [x, weight])
    formula = weight * (x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt())
    assert torch.allclose(rms_norm(x, weight, 1e-5), formula, rtol=1e-14)


def test_gradients_of_the_product_are_right_in_float64():
    torch.manual_seed(0)
    gate, up = (torch.randn(3, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(silu_mul, [gate, up])
    assert torch.equal(silu_mul(gate, up), silu(gate) * up)


def test_gradients_of_a_block_are_right_in_float64():
    """Norm, gate, up, product and down projection in one graph."""
    torch.manual_seed(0)
    shapes = [(4, 5), (5,), (6, 5), (6, 5), (5, 6)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def block(x, scale, gate, up, down):
        normed = rms_norm(x, scale, 1e-6)
        return x + lean_linear(silu_mul(lean_linear(normed, gate), lean_linear(normed, up)), down)

    assert torch.autograd.gradcheck(block, tensors)


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_has_the_bits_of_transformers(family, dtype):
    plain = small_model(family, dtype)
    want, _ = trunk(plain)
    got, _ = trunk(lean_layers(plain))
    with torch.no_grad():
        got_without_graph, _ = trunk(plain)
    assert torch.equal(got, want) and torch.equal(got_without_graph, want)


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_gradients_are_those_of_transformers(family):
    plain = small_model(family)
    lean = lean_layers(copy.deepcopy(plain))
    assert largest_error(gradients(lean), gradients(plain)) < 2e-6


def test_llamas_biases_get_their_gradients():
    plain = small_model("llama", attention_bias=True, mlp_bias=True)
    names = [name for name, _ in plain.named_parameters() if name.endswith("bias")]
    got = gradients(lean_layers(copy.deepcopy(plain)))
    assert len(names) == 14 and largest_error(got, gradients(plain)) < 2e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_gradients_are_as_near_to_float64_as_those_of_transformers(family):
    plain = small_model(family, torch.bfloat16)
    lean = lean_layers(copy.deepcopy(plain))
    truth = gradients(lean_layers(copy.deepcopy(plain).double()))
    assert largest_error(gradients(lean), truth) <= 1.1 * largest_error(gradients(plain), truth)


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bytes_kept_are_those_of_the_formula(family, dtype):
    model = lean_layers(small_model(family, dtype, num_hidden_layers=3))
    _, kept = trunk(model)
    assert kept == pytest.approx(formula_bytes(model), rel=0.01)


class LowRankLinear(nn.Module):
    """A frozen linear with a trained low-rank one beside it, as an adapter would be."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, dtype=base.weight.dtype))
        self.lora_B = nn.Parameter(torch.randn(base.out_features, rank, dtype=base.weight.dtype))

    def forward(self, x):
        base = lean_linear(x, self.weight, self.bias)
        return base + linear(lean_linear(x, self.lora_A), self.lora_B)


def with_adapters(model: nn.Module, rank: int) -> nn.Module:
    model.requires_grad_(False)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, child in list(block.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(block, name, LowRankLinear(child, rank))
    return model


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_keep_their_low_rank_products_more(family, dtype):
    model = lean_layers(with_adapters(small_model(family, dtype, num_hidden_layers=3), rank=4))
    _, kept = trunk(model)
    assert kept == pytest.approx(formula_bytes(model, low_rank=4), rel=0.01)


def test_adapters_get_the_gradients_of_transformers_layers():
    plain = with_adapters(small_model("qwen3"), rank=4)
    lean = lean_layers(copy.deepcopy(plain))
    got, want = gradients(lean), gradients(plain)
    assert len(got) == 28 and largest_error(got, want) < 2e-6


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(is_reentrant):
    lean = lean_layers(small_model("qwen3"))
    want = {name: grad.clone() for name, grad in gradients(lean).items()}
    lean.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
    if is_reentrant:  # needs an input that asks for a gradient
        lean.enable_input_require_grads()
    assert largest_error(gradients(lean), want) == 0.0


def test_a_checkpointed_layer_keeps_its_input_only():
    model = lean_layers(small_model("llama", num_hidden_layers=4))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    _, kept = trunk(model)
    per_token = 4 * 64 * (4 + 1) + 4 + 8  # inputs of layers and final norm, its rstd, positions
    assert kept == pytest.approx(sum(LENGTHS) * per_token, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_gives_the_same_tokens(family):
    plain = small_model(family).eval()
    plain.set_attn_implementation("sdpa")
    ids = torch.arange(3, 11)[None]
    options = {"max_new_tokens": 12, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    want = plain.generate(ids, **options)
    assert torch.equal(lean_layers(plain).generate(ids, **options), want)
    assert want.shape[1] > 9


def test_parameters_and_their_names_stay():
    model = small_model("qwen2")
    before = {name: id(p) for name, p in model.named_parameters()}
    assert {name: id(p) for name, p in lean_layers(model).named_parameters()} == before


def test_a_copy_of_the_model_computes_with_its_own_weights():
    model = lean_layers(small_model("llama"))
    other = copy.deepcopy(model)
    before, _ = trunk(other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(trunk(other)[0], before)


def test_another_activation_keeps_its_mlp():
    plain = small_model("qwen2", hidden_act="gelu")
    want, _ = trunk(plain)
    assert torch.equal(trunk(lean_layers(plain))[0], want)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_policy_keeps_no_more(family, checkpoint):
    policy = load_policy(ModelKeys(model=str(checkpoint(family)), dtype="float32"))
    _, kept = trunk(policy)
    assert kept == pytest.approx(formula_bytes(policy), rel=0.01)
