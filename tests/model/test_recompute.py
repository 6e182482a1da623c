"""Linears that compute their input again: the gradients of torch's linear, and what is kept."""

import pytest
import torch
from torch.nn.functional import linear

from nsr_fast.bench.saved import SavedBytes
from nsr_fast.model.recompute import lean_linear, with_recipe


def case(bias: bool = True, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, 7, dtype=dtype, requires_grad=True)
    return x, weight, torch.randn(3, dtype=dtype, requires_grad=True) if bias else None


def doubled(x: torch.Tensor) -> torch.Tensor:
    """2 x, with the recipe for it."""
    return with_recipe(2 * x, lambda source: 2 * source, [x])


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_right_in_float64(bias):
    x, weight, maybe_bias = case(bias)
    inputs = [t for t in (x, weight, maybe_bias) if t is not None]
    assert torch.autograd.gradcheck(lambda x, *rest: lean_linear(doubled(x), *rest), inputs)


def test_result_and_gradients_have_the_bits_of_torchs_linear():
    x, weight, bias = case(dtype=torch.float32)
    lean, plain = lean_linear(doubled(x), weight, bias), linear(2 * x, weight, bias)
    assert torch.equal(lean, plain)
    upstream = torch.randn(lean.shape)
    for got, want in zip(
        torch.autograd.grad(lean, [x, weight, bias], upstream),
        torch.autograd.grad(plain, [x, weight, bias], upstream),
        strict=True,
    ):
        assert torch.equal(got, want)


def test_the_sources_are_kept_and_not_the_input():
    x, weight, _ = case(bias=False)
    with SavedBytes(exclude=[weight]) as saved:
        made = doubled(x)
        lean_linear(made, weight)
        lean_linear(made, weight)
    assert saved.bytes == x.nbytes
    with SavedBytes(exclude=[weight, x]) as saved:
        lean_linear(made, weight)
    assert saved.bytes == 0


def test_nothing_is_kept_for_a_frozen_weight():
    x, weight, _ = case(bias=False)
    with SavedBytes(exclude=[weight]) as saved:
        lean_linear(doubled(x), weight.detach())
    assert saved.bytes == 0


def test_a_reshape_keeps_the_recipe_and_a_part_or_a_transpose_does_not():
    x, weight, _ = case(bias=False)
    square = torch.randn(5, 5, dtype=x.dtype, requires_grad=True)
    for change, w, is_recomputed in (
        (lambda t: t.reshape(10, 7), weight, True),
        (lambda t: t[:1], weight, False),
        (lambda t: t.transpose(1, 2), square, False),
    ):
        made = doubled(x)
        out = lean_linear(change(made), w)
        assert ("Recomputed" in out.grad_fn.name()) == is_recomputed
        out.sum().backward()
        want = torch.autograd.grad(linear(change(2 * x), w).sum(), w)[0]
        assert torch.equal(w.grad, want)
        w.grad = None


def test_a_tensor_changed_in_place_is_kept_itself():
    x, weight, _ = case(bias=False)
    made = doubled(x)
    with torch.no_grad():
        made.mul_(3)
    lean_linear(made, weight).sum().backward()
    want = torch.autograd.grad(linear(6 * x, weight).sum(), weight)[0]
    assert torch.allclose(weight.grad, want, rtol=1e-12)


def test_a_source_changed_in_place_is_an_error_as_for_torchs_linear():
    x, weight, _ = case(bias=False)
    base = x * 1.0
    out = lean_linear(doubled(base), weight)
    with torch.no_grad():
        base.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_one_backward_pass_computes_an_input_once_for_all_its_linears():
    x, weight, _ = case(bias=False)
    calls = []

    def compute(source):
        calls.append(source)
        return 2 * source

    made = with_recipe(2 * x, compute, [x])
    out = lean_linear(made, weight) + lean_linear(made, 2 * weight) + lean_linear(made, weight)
    out.sum().backward(retain_graph=True)
    assert len(calls) == 1 and made.nsr_recipe.computation.value is None
    first = weight.grad.clone()
    out.sum().backward()
    assert torch.allclose(weight.grad, 2 * first, rtol=1e-12)


def test_without_a_graph_there_is_no_recipe():
    x, weight, _ = case(bias=False)
    with torch.no_grad():
        made = doubled(x)
        assert torch.equal(lean_linear(made, weight), linear(made, weight))
    assert not hasattr(made, "nsr_recipe")
