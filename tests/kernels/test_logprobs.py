"""linear_logprobs against float64 autograd on full logits."""

import pytest
import torch
from linear_cases import ALL, assert_as_good_as, head_case, leaves

from nsr_fast.kernels import head_loop
from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.logprobs import linear_logprobs

BACKENDS = ["reference", "cpu"]


def run(function, case, *, dtype=None, **options):
    """logprob, entropy and the gradients of a function of both."""
    inputs = leaves(case, *ALL, dtype=dtype or case["hidden"].dtype)
    hidden, weight, bias = inputs
    out = function(hidden, weight, case["target"], bias=bias, **options)
    logprob, entropy = out[:2] if isinstance(out, tuple) else (out.logprob, out.entropy)
    w = case["token_weight"].to(logprob.dtype)
    grads = torch.autograd.grad((w * logprob).sum() + (w.abs() * entropy).sum(), inputs)
    return [logprob.detach(), entropy.detach(), *grads], out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens, vocab, width", [(1, 5, 3), (65, 1003, 17), (300, 31, 8)])
def test_logprobs_and_gradients_match_float64(tokens, vocab, width, dtype, backend):
    case = head_case(tokens, vocab, width, dtype=dtype)
    options = {"temperature": 0.8, "softcap": 9.0}
    truth, _ = run(reference.linear_logprobs, case, dtype=torch.float64, **options)
    base, _ = run(reference.linear_logprobs, case, **options)
    got, out = run(linear_logprobs, case, backend=backend, **options)
    eps = 4e-6 if dtype == torch.float32 else 2e-2
    for name, g, t, b in zip(("logprob", "entropy", *ALL), got, truth, base):
        assert_as_good_as(g, t, b, name=name, eps=eps)
    assert out.logprob.dtype == torch.float32 and not out.lse.requires_grad


def test_several_chunks_give_what_one_gives(monkeypatch):
    case = head_case(100, 64, 8)
    whole, _ = run(linear_logprobs, case)
    monkeypatch.setitem(head_loop._TILE_BYTES, "cpu", 64 * 4 * 32)
    parts, _ = run(linear_logprobs, case)
    assert torch.equal(whole[0], parts[0])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts))


def test_rows_without_an_upstream_gradient_may_hold_nan():
    case = head_case(12, 40, 5)
    hidden, weight = leaves(case, "hidden", "weight")
    with torch.no_grad():
        hidden[4] = torch.nan
    out = linear_logprobs(hidden, weight, case["target"])
    assert out.logprob.isnan().tolist() == [row == 4 for row in range(12)]
    keep = torch.arange(12) != 4
    out.logprob[keep].sum().backward()
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()
    assert bool((hidden.grad[4] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_bitwise_equal_twice(backend):
    case = head_case(100, 333, 16)
    first, second = (run(linear_logprobs, case, backend=backend)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_no_upstream_gradient_gives_exact_zeros():
    hidden, weight = leaves(case := head_case(5, 20, 4), "hidden", "weight")
    out = linear_logprobs(hidden, weight, case["target"])
    (out.logprob * 0).sum().backward()
    assert bool((hidden.grad == 0).all()) and bool((weight.grad == 0).all())


def test_only_one_input_may_want_a_gradient():
    case = head_case(5, 20, 4)
    full, _ = run(linear_logprobs, {**case, "bias": torch.zeros(20)})
    for index, name in enumerate(("hidden", "weight")):
        inputs = {**case, name: leaves(case, name)[0]}
        out = linear_logprobs(inputs["hidden"], inputs["weight"], case["target"])
        w = case["token_weight"]
        ((w * out.logprob).sum() + (w.abs() * out.entropy).sum()).backward()
        assert torch.equal(inputs[name].grad, full[2 + index])


def test_gradients_pass_gradcheck_and_refuse_a_second_derivative():
    case = head_case(4, 13, 3)
    inputs = leaves(case, *ALL, dtype=torch.float64)

    def function(hidden, weight, bias):
        out = linear_logprobs(hidden, weight, case["target"], bias=bias, temperature=0.6)
        return out.logprob, out.entropy

    assert torch.autograd.gradcheck(function, inputs)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(function(*inputs)[0].sum(), inputs[0], create_graph=True)


def test_autocast_computes_in_bfloat16_and_returns_float32():
    case = head_case(9, 33, 4)
    hidden, weight = leaves(case, "hidden", "weight")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = linear_logprobs(hidden, weight, case["target"])
    out.logprob.sum().backward()
    half = linear_logprobs(case["hidden"].bfloat16(), case["weight"].bfloat16(), case["target"])
    assert torch.equal(out.logprob, half.logprob) and out.logprob.dtype == torch.float32
    assert weight.grad.dtype == torch.float32


def test_bad_input_is_named():
    case = head_case(4, 9, 3)
    args = (case["hidden"], case["weight"])
    with pytest.raises(ValueError, match=r"target: expected values in \[0, 9\), got 9 in row 0"):
        linear_logprobs(*args, torch.full((4,), 9))
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0"):
        linear_logprobs(*args, case["target"], temperature=-1)
    with pytest.raises(ValueError, match="backend: expected one of"):
        linear_logprobs(*args, case["target"], backend="best")
