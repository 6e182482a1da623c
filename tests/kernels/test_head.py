"""Bad arguments of linear_policy_loss: ValueError that names the argument."""

import pytest
import torch
from linear_cases import head_case

from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.objective.terms import PpoClip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden": torch.randn(4)}, r"hidden: expected 2 axes of a floating dtype, got \[4\]"),
        ({"hidden": torch.ones(4, 3, dtype=torch.int64)}, "hidden: expected 2 axes of a floating"),
        ({"hidden": torch.ones(4, 3).numpy()}, "hidden: expected a tensor, got ndarray"),
        ({"weight": None}, "weight: expected a tensor, got NoneType"),
        ({"target": [0, 1, 2, 3]}, "target: expected a tensor, got list"),
        ({"token_weight": 1.0}, "token_weight: expected a tensor, got float"),
        ({"bias": 0}, "bias: expected a tensor, got int"),
        ({"ref_logprob": [0.0] * 4}, "ref_logprob: expected a tensor, got list"),
        ({"weight": torch.ones(9, 3, device="meta")}, r"weight: expected \[V, D\]=\[V, 3\] on cpu"),
        ({"target": torch.zeros(4, dtype=torch.int64, device="meta")}, "got .4. int64 on meta"),
        ({"weight": torch.randn(9, 2)}, r"weight: expected \[V, D\]=\[V, 3\]"),
        ({"weight": torch.randn(0, 3)}, r"weight: expected \[V, D\]"),
        ({"weight": torch.randn(9, 3).double()}, "weight: expected torch.float32 like hidden"),
        ({"weight": torch.randn(3, 9).t()}, "weight: expected contiguous"),
        ({"hidden": torch.randn(3, 4).t()}, "hidden: expected contiguous"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, r"target: expected \[T\]=\[4\] int64"),
        ({"target": torch.zeros(4, dtype=torch.int32)}, "got .4. int32 on cpu"),
        ({"target": torch.tensor([0, 1, 9, 2])}, r"\[0, 9\), got 9 in row 2"),
        ({"target": torch.tensor([0, 1, 2, -1])}, r"\[0, 9\), got -1 in row 3"),
        ({"token_weight": torch.ones(3)}, r"token_weight: expected \[T\]=\[4\] float32"),
        ({"token_weight": torch.ones(4, dtype=torch.int64)}, "token_weight: expected"),
        ({"bias": torch.ones(4)}, r"bias: expected \[V\]=\[9\]"),
        ({"bias": torch.ones(9).double()}, "bias: expected torch.float32"),
        ({"temperature": 0.0}, "temperature: expected a finite number > 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e-46}, "temperature"),  # 0 in float32
        ({"temperature": 10**400}, "temperature"),
        ({"softcap": 1e-46}, "softcap"),
        ({"softcap": -1.0}, "softcap: expected a finite number > 0"),
        ({"old_logprob": torch.ones(3)}, r"old_logprob: expected \[T\]=\[4\]"),
        ({"surrogate": "ppo"}, "surrogate: expected None or a callable, got 'ppo'"),
        ({"surrogate": PpoClip, "old_logprob": torch.ones(4)}, "surrogate: expected None or a"),
        ({"surrogate": PpoClip()}, r"old_logprob: expected \[T\], got None"),
        ({"surrogate": PpoClip(sampler_cap=2.0), "old_logprob": torch.ones(4)}, "sampler_logprob"),
        ({"surrogate": lambda rows: rows.logprob}, "surrogate: expected TokenTerms, got Tensor"),
        ({"entropy_coef": "much"}, "entropy_coef: expected a finite number"),
        ({"entropy_coef": float("inf")}, "entropy_coef: expected a finite number"),
        ({"logits_dtype": torch.float16}, "logits_dtype: expected float32"),
        ({"tail_mass": -0.1}, "tail_mass"),
        ({"chunk_rows": 0}, "chunk_rows: expected None or an integer >= 1, got 0"),
        ({"chunk_rows": -3}, "chunk_rows"),
        ({"chunk_rows": True}, "chunk_rows"),
        ({"chunk_rows": 2**63}, "chunk_rows"),
        ({"backend": ["cpu"]}, "backend: expected one of"),
        (
            {"backend": "tpu"},
            "backend: expected one of auto, cuda, triton, cpu, reference, got 'tpu'",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    case = head_case(4, 9, 3)
    case.pop("bias")
    with pytest.raises(ValueError, match=message):
        linear_policy_loss(**{**case, **change})


@pytest.mark.skipif(torch.cuda.is_available(), reason="the backends may be there")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_an_absent_backend_is_not_replaced_silently(backend):
    case = head_case(4, 9, 3)
    with pytest.raises(RuntimeError, match=f"backend '{backend}' is not available: "):
        linear_policy_loss(**case, backend=backend)


def test_a_target_is_checked_on_the_cpu_in_active_rows_of_any_chunk():
    case = head_case(6, 9, 3)
    case["target"][5] = 9
    with pytest.raises(ValueError, match=r"got 9 in row 5"):
        linear_policy_loss(**case, chunk_rows=2)
    case["token_weight"][5] = 0.0
    assert linear_policy_loss(**case, chunk_rows=2).loss.isfinite()


def test_strided_vectors_are_read_as_they_are():
    case = head_case(6, 9, 3)
    strided = {name: case[name].repeat_interleave(2)[::2] for name in ("target", "token_weight")}
    strided["bias"] = case["bias"].repeat_interleave(3)[::3]
    whole, other = (linear_policy_loss(**{**case, **x}) for x in ({}, strided))
    assert torch.equal(whole.loss, other.loss)


def test_shapes_alone_pass_through_on_the_meta_device():
    case = {name: x.to("meta") for name, x in head_case(4, 9, 3).items()}
    result = linear_policy_loss(**case)
    assert result.loss.shape == () and result.logprob.shape == (4,) and result.loss.is_meta
