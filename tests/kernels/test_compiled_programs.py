"""torch.compile: linear_logprobs stays whole (opcheck, fullgraph), the loss breaks the graph."""

import pytest
import torch
from linear_cases import ALL, head_case, leaves

from nsr_fast.kernels import logprobs as logprobs_module
from nsr_fast.kernels.head import TokenTerms
from nsr_fast.kernels.logprobs import linear_logprobs
from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.objective.terms import PpoClip


def doubled(rows):
    return TokenTerms(-2 * rows.token_weight * rows.logprob, -2 * rows.token_weight)


@pytest.mark.parametrize("has_bias", [False, True])
def test_opcheck_passes_for_linear_logprobs(has_bias):
    case = head_case(9, 33, 5)
    hidden, weight, bias = leaves(case, *ALL)
    bias = bias if has_bias else None
    options = (0.9, 5.0, torch.float32, "cpu")
    args = (hidden, weight, bias, case["target"], *options)
    torch.library.opcheck(logprobs_module._forward, args)
    inputs = [x if x is None else x.detach() for x in (hidden, weight, bias)]
    w = case["token_weight"]
    args = (w, w, w, w.abs(), *inputs, case["target"], *options, [True, True, has_bias])
    torch.library.opcheck(logprobs_module._backward, args)


def policy(case, surrogate, accumulate=False):
    def step(hidden, weight, bias):
        out = linear_policy_loss(
            hidden.tanh(),
            weight,
            case["target"],
            case["token_weight"],
            bias=bias,
            surrogate=surrogate,
            old_logprob=case["token_weight"] - 3,
            entropy_coef=0.1,
            accumulate_into_grad=accumulate,
        )
        return out.loss + 0 * out.entropy.sum()

    return step


def logprobs(case):
    def step(hidden, weight, bias):
        out = linear_logprobs(hidden.tanh(), weight, case["target"], bias=bias, temperature=0.7)
        return (out.logprob * case["token_weight"]).sum() + out.entropy.mean()

    return step


def assert_compiled_equals_eager(step, case, mode, fill=None, *, fullgraph=False):
    results = []
    for function in (step, torch.compile(step, fullgraph=fullgraph, backend=mode)):
        inputs = leaves(case, *ALL)
        if fill is not None:
            inputs[1].grad, inputs[2].grad = (torch.full_like(x, fill) for x in inputs[1:])
        loss = function(*inputs)
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in inputs)])
    for eager, compiled in zip(*results):
        assert torch.allclose(eager, compiled, atol=1e-6)


MODES = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mode", MODES)
def test_compiled_operations_equal_eager_ones(mode):
    case = head_case(9, 33, 5)
    case["token_weight"][::3] = 0.0
    torch._dynamo.reset()
    for surrogate in (None, PpoClip(0.2, 0.28), PpoClip(0.3), doubled):
        assert_compiled_equals_eager(policy(case, surrogate), case, mode)
    assert_compiled_equals_eager(policy(case, None, accumulate=True), case, mode, fill=1.0)
    assert_compiled_equals_eager(logprobs(case), case, mode, fullgraph=True)


def test_compiled_with_dynamic_sizes_equals_eager():
    torch._dynamo.reset()

    def step(hidden, weight, target, token_weight):
        options = {"temperature": 0.9, "entropy_coef": 0.1, "chunk_rows": 4}
        return linear_policy_loss(hidden, weight, target, token_weight, **options).loss

    compiled = torch.compile(step, dynamic=True, backend="aot_eager")
    for tokens in (5, 3, 1, 0, 9):
        case = head_case(tokens, 33, 5)
        results = []
        for function in (step, compiled):
            inputs = leaves(case, "hidden", "weight")
            loss = function(*inputs, case["target"], case["token_weight"])
            loss.backward()
            results.append([loss.detach(), *(x.grad for x in inputs)])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results))


@pytest.mark.parametrize("function", [linear_policy_loss, linear_logprobs])
def test_compiled_programs_check_targets_on_the_cpu_too(function):
    torch._dynamo.reset()
    case = head_case(6, 9, 3)
    case["target"][2] = 9
    is_loss = function is linear_policy_loss
    names = ["hidden", "weight", "target"] + ["token_weight"] * is_loss
    options = {"fullgraph": not is_loss, "backend": "eager"}
    compiled = torch.compile(lambda *args: function(*args).logprob, **options)
    with pytest.raises(ValueError, match=r"target: expected values in \[0, 9\), got 9 in row 2"):
        compiled(*(case[name] for name in names))
