"""Adapters beside frozen linears: their product, what trains, what is kept, the base without."""

import copy

import pytest
import torch
from model.layers import FAMILIES, formula_bytes, gradients, largest_error, small_model, trunk
from torch import nn
from torch.nn.functional import linear

from nsr_fast.model.adapter import (
    FrozenLinear,
    adapt,
    adapted_layers,
    adapters_off,
    init_adapters,
)
from nsr_fast.model.lean_layers import lean_layers
from nsr_fast.model.nf4 import dequantize
from nsr_fast.types import LINEARS, AdapterShape

FORMS = pytest.mark.parametrize("form", ["none", "nf4"])
NF4_SIZES = {"intermediate_size": 128}


def adapted(family="qwen2", form="none", *, rank=4, scale=2.0, targets=LINEARS, **changes):
    """A small model whose A and B are all drawn."""
    shape = AdapterShape(rank, scale, targets, form)
    model = adapt(small_model(family, **{**NF4_SIZES, **changes}), shape)
    init_adapters(model, seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B.normal_(std=0.1)
    return lean_layers(model)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_product_is_that_of_w_plus_scale_b_a(has_bias):
    torch.manual_seed(0)
    plain = nn.Linear(12, 20, bias=has_bias).double()
    for scale in (1.0, 2.0, 0.25):
        layer = FrozenLinear(plain, AdapterShape(3, scale), is_adapted=True)
        with torch.no_grad():
            layer.lora_A.normal_()
            layer.lora_B.normal_()
        x = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
        want = linear(x, plain.weight + scale * layer.lora_B @ layer.lora_A, plain.bias)
        assert torch.allclose(layer(x), want, rtol=1e-12, atol=1e-12)
        leaves = (x, layer.lora_A, layer.lora_B)
        grad = torch.randn_like(want)
        for got, expected in zip(
            torch.autograd.grad(layer(x), leaves, grad), torch.autograd.grad(want, leaves, grad)
        ):
            assert torch.allclose(got, expected, rtol=1e-11, atol=1e-12)


@FORMS
@pytest.mark.parametrize("family", FAMILIES)
def test_a_and_b_of_the_targets_train_and_nothing_else(family, form):
    targets = ("q_proj", "v_proj", "down_proj")
    model = adapted(family, form, targets=targets)
    got = gradients(model)
    assert len(got) == 2 * 3 * 2
    for name, grad in got.items():
        *_, module, kind = name.split(".")
        assert module in targets and kind in ("lora_A", "lora_B")
        assert grad.count_nonzero() > 0.9 * grad.numel()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == got.keys()


@FORMS
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_merged_weights(family, form):
    """By the chain rule through W + scale B A: dA = scale B^T dW, dB = scale dW A^T."""
    model = adapted(family, form)
    got = gradients(model)
    merged = small_model(family, **NF4_SIZES)
    layers = adapted_layers(model)
    with torch.no_grad():
        for name, layer in layers.items():
            weight = layer.weight
            if form == "nf4":
                weight = dequantize(weight, layer.absmax, torch.float32)
            delta = layer.scale * layer.lora_B @ layer.lora_A
            merged.get_submodule(name).weight.copy_(weight + delta)
    full, want = gradients(merged), {}
    for name, layer in layers.items():
        dw, a, b = layer.scale * full[f"{name}.weight"], layer.lora_A, layer.lora_B
        want[f"{name}.lora_A"], want[f"{name}.lora_B"] = b.detach().T @ dw, dw @ a.detach().T
    assert largest_error(got, want) < 2e-5


def test_new_adapters_change_nothing_and_are_drawn_from_the_seed():
    shape = AdapterShape(4)
    base = small_model("qwen3")
    want, _ = trunk(base)
    model = adapt(copy.deepcopy(base), shape)
    draws = []
    for seed in (1, 1, 2):
        init_adapters(model, seed)
        assert torch.equal(trunk(model)[0], want)
        draws.append({n: x.lora_A.detach().clone() for n, x in adapted_layers(model).items()})
    first, again, other = draws
    assert len(first) == 14 and all(torch.equal(first[n], again[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first)
    for name, layer in adapted_layers(model).items():
        bound = layer.in_features**-0.5  # nn.init.kaiming_uniform_(a=sqrt 5), as PEFT draws it
        assert 0.9 * bound < float(first[name].abs().max()) <= bound
        assert layer.lora_B.count_nonzero() == 0
    assert len({float(x[0, 0]) for x in first.values()}) == 14  # no two layers alike


@FORMS
def test_switched_off_the_base_answers_bit_for_bit(form):
    model = adapted("llama", form)
    base = lean_layers(adapt(small_model("llama", **NF4_SIZES), AdapterShape(quantize=form)))
    want, _ = trunk(base)
    with_adapters, _ = trunk(model)
    with adapters_off(model):
        assert torch.equal(trunk(model)[0], want)
    assert torch.equal(trunk(model)[0], with_adapters)
    assert not torch.allclose(with_adapters, want, atol=1e-2)
    with pytest.raises(ZeroDivisionError), adapters_off(model):
        1 / 0  # noqa: B018
    assert torch.equal(trunk(model)[0], with_adapters)


@FORMS
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(family, form):
    model = adapted(family, form)
    want = {name: grad.clone() for name, grad in gradients(model).items()}
    _, plain_bytes = trunk(model)
    model.gradient_checkpointing_enable()
    _, kept = trunk(model)
    assert kept < 0.4 * plain_bytes
    got = gradients(model)
    assert len(want) == 28 and largest_error(got, want) == 0.0


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bytes_kept_are_those_of_the_formula(family, dtype, form):
    """b 7 r a token and layer beside what full training keeps."""
    rank = 8
    model = small_model(family, dtype, num_hidden_layers=3, **NF4_SIZES)
    model = adapt(model, AdapterShape(rank, 2.0, quantize=form))
    init_adapters(model, 0)
    _, kept = trunk(lean_layers(model))
    assert kept == pytest.approx(formula_bytes(model, low_rank=rank), rel=0.02)


def test_rounding_the_sum_to_bfloat16_loses_most_of_a_small_b_a():
    """What merge_adapters' docstring says: why nothing here samples from merged weights."""
    torch.manual_seed(0)
    weight = torch.randn(512, 512).bfloat16().float()
    delta = torch.randn(512, 8) @ torch.randn(8, 512)
    delta *= 1e-3 / delta.std()
    kept = (weight + delta).bfloat16().float() - weight
    assert float((kept == 0).float().mean()) == pytest.approx(0.78, abs=0.02)
    assert float((kept - delta).norm() / delta.norm()) == pytest.approx(0.78, abs=0.02)
