"""linear_policy_loss under autograd: upstream gradients, .grad, autocast, second derivatives."""

import pytest
import torch
from linear_cases import ALL, assert_as_good_as, head_case, leaves, run
from torch.utils.checkpoint import checkpoint

from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.objective.terms import PpoClip

BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_upstream_gradient_scales_everything(backend):
    case = head_case(9, 40, 5)
    once, _ = run(linear_policy_loss, case, backend=backend)
    scaled, _ = run(linear_policy_loss, case, backend=backend, upstream=-4.0)
    for a, b in zip(once[1:], scaled[1:]):
        assert torch.equal(a * -4.0, b)


def test_backward_twice_over_a_kept_graph_agrees():
    case = head_case(9, 40, 5)
    hidden, weight = leaves(case, "hidden", "weight")
    loss = linear_policy_loss(hidden, weight, case["target"], case["token_weight"]).loss
    first = torch.autograd.grad(loss * 3, [hidden, weight], retain_graph=True)
    second = torch.autograd.grad(loss * 3, [hidden, weight])
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_gradients_pass_gradcheck():
    case = head_case(6, 23, 4)
    inputs = leaves(case, *ALL, dtype=torch.float64)
    case["token_weight"][2] = 0.0
    old = torch.full((6,), -3.0, dtype=torch.float64)

    def loss(hidden, weight, bias):
        return linear_policy_loss(
            hidden,
            weight,
            case["target"],
            case["token_weight"].double(),
            bias=bias,
            temperature=0.8,
            softcap=4.0,
            entropy_coef=0.2,
            chunk_rows=2,
            surrogate=PpoClip(5.0, 5.0, kl="k2"),
            old_logprob=old,
        ).loss

    assert torch.autograd.gradcheck(loss, inputs)


def test_second_derivatives_are_refused():
    hidden, weight = leaves(case := head_case(4, 9, 3), "hidden", "weight")
    loss = linear_policy_loss(hidden, weight, case["target"], case["token_weight"]).loss
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_only_the_gradients_that_are_wanted_are_made():
    case = head_case(8, 30, 4)
    args = (case["target"], case["token_weight"])
    (hidden,) = leaves(case, "hidden")
    linear_policy_loss(hidden, case["weight"], *args).loss.backward()
    full, _ = run(linear_policy_loss, {**case, "bias": torch.zeros(30)})
    assert torch.equal(hidden.grad, full[1])
    (weight,) = leaves(case, "weight")
    linear_policy_loss(case["hidden"], weight, *args).loss.backward()
    assert torch.equal(weight.grad, full[2])
    with torch.no_grad():
        assert not linear_policy_loss(hidden, weight, *args).loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accumulate_into_grad_adds_in_float32(dtype):
    case = head_case(40, 55, 6, dtype=dtype)
    truth, _ = run(reference.linear_policy_loss, case, dtype=torch.float64)
    base, _ = run(reference.linear_policy_loss, case)
    hidden, weight, bias = leaves(case, *ALL)
    args = (case["target"], case["token_weight"])
    for _ in range(2):
        options = {"bias": bias, "accumulate_into_grad": True, "chunk_rows": 16}
        linear_policy_loss(hidden, weight, *args, **options).loss.backward()
    assert weight.grad.dtype == bias.grad.dtype == torch.float32
    eps = 4e-6 if dtype == torch.float32 else 2e-2
    for name, x, t, b in zip(ALL, (hidden, weight, bias), truth[1:], base[1:]):
        assert_as_good_as(x.grad.double() / 2, t, b, name=name, eps=eps)


def test_accumulate_into_grad_wants_upstream_one_and_a_leaf():
    hidden, weight = leaves(case := head_case(4, 9, 3), "hidden", "weight")
    args = (case["target"], case["token_weight"])
    loss = linear_policy_loss(hidden, weight, *args, accumulate_into_grad=True).loss
    with pytest.raises(RuntimeError, match=r"upstream gradient of 1, got 0\.5"):
        (loss * 0.5).backward()
    with pytest.raises(ValueError, match="weight: accumulate_into_grad expected a leaf"):
        linear_policy_loss(hidden, weight * 1, *args, accumulate_into_grad=True)


def test_accumulate_into_grad_refuses_what_would_count_twice():
    hidden, weight = leaves(case := head_case(4, 9, 3), "hidden", "weight")
    args = (case["target"], case["token_weight"])

    def loss(hidden):
        return linear_policy_loss(hidden, weight, *args, accumulate_into_grad=True).loss

    kept = loss(hidden)
    kept.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="accumulate_into_grad allows one backward pass"):
        kept.backward()
    again = checkpoint(loss, hidden.tanh(), use_reentrant=False)
    with pytest.raises(RuntimeError, match="accumulate_into_grad inside a backward pass"):
        again.backward()


def test_accumulate_into_grad_works_with_a_frozen_trunk():
    case = head_case(8, 30, 4)
    (weight,), (plain,) = leaves(case, "weight"), leaves(case, "weight")
    args = (case["target"], case["token_weight"])
    for _ in range(2):
        options = {"accumulate_into_grad": True}
        linear_policy_loss(case["hidden"], weight, *args, **options).loss.backward()
        linear_policy_loss(case["hidden"], plain, *args).loss.backward()
    assert torch.allclose(weight.grad, plain.grad, atol=1e-6)
    with pytest.raises(RuntimeError, match="upstream gradient of 1"):
        (linear_policy_loss(case["hidden"], weight, *args, **options).loss * 2).backward()


def test_the_weight_gradient_is_handed_over_not_copied():
    case = head_case(8, 4099, 64)
    inputs = leaves(case, "hidden", "weight")
    loss = linear_policy_loss(*inputs, case["target"], case["token_weight"]).loss
    made = [x.data_ptr() for x in loss.grad_fn.saved_tensors]
    loss.backward()
    assert [x.grad.data_ptr() for x in inputs] == made


def test_activation_checkpointing_of_the_plain_form():
    case = head_case(8, 30, 4)
    results = []
    for is_checkpointed in (False, True):
        hidden, weight = leaves(case, "hidden", "weight")

        def loss(x, weight=weight):
            return linear_policy_loss(x.tanh(), weight, case["target"], case["token_weight"]).loss

        out = checkpoint(loss, hidden, use_reentrant=False) if is_checkpointed else loss(hidden)
        out.backward()
        results.append((hidden.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_inference_mode_gives_the_loss_alone():
    hidden, weight = leaves(case := head_case(8, 30, 4), "hidden", "weight")
    args = (hidden, weight, case["target"], case["token_weight"])
    expected = linear_policy_loss(*args)
    with torch.inference_mode():
        result = linear_policy_loss(*args)
    assert torch.equal(result.loss, expected.loss) and not result.loss.requires_grad
    assert torch.equal(result.entropy, expected.entropy)


def test_tied_embedding_gets_both_gradients():
    case = head_case(10, 30, 4)
    grads = []
    for accumulate in (False, True):
        (weight,) = leaves(case, "weight")
        hidden = torch.nn.functional.embedding(case["target"], weight).tanh()
        args = (hidden, weight, case["target"], case["token_weight"])
        linear_policy_loss(*args, accumulate_into_grad=accumulate).loss.backward()
        grads.append(weight.grad)
    (weight,) = leaves(case, "weight")
    hidden = torch.nn.functional.embedding(case["target"], weight).tanh()
    args = (hidden, weight, case["target"], case["token_weight"])
    reference.linear_policy_loss(*args).backward()
    assert torch.allclose(grads[0], weight.grad, atol=1e-5)
    assert torch.allclose(grads[1], weight.grad, atol=1e-5)


def test_autocast_casts_hidden_and_weight():
    case = head_case(20, 64, 8)
    hidden, weight = leaves(case, "hidden", "weight")
    args = (case["target"], case["token_weight"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = linear_policy_loss(hidden.bfloat16(), weight, *args)
    result.loss.backward()
    half = [x.bfloat16().requires_grad_() for x in (case["hidden"], case["weight"])]
    expected = linear_policy_loss(*half, *args)
    expected.loss.backward()
    assert torch.equal(result.loss, expected.loss) and result.logprob.dtype == torch.float32
    assert weight.grad.dtype == torch.float32
    assert torch.equal(weight.grad, half[1].grad.float())
