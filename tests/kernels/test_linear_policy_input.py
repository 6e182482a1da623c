"""Bad arguments of linear_policy_loss: ValueError that names the argument."""

import pytest
import torch
from linear_cases import head_case

from nsr_fast.kernels.linear_policy_loss import linear_policy_loss
from nsr_fast.kernels.surrogates import PpoClip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden": torch.randn(4)}, r"hidden: expected 2 axes of a floating dtype, got \[4\]"),
        ({"hidden": torch.ones(4, 3, dtype=torch.int64)}, "hidden: expected 2 axes of a floating"),
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
        ({"softcap": -1.0}, "softcap: expected a finite number > 0"),
        ({"old_logprob": torch.ones(3)}, r"old_logprob: expected \[T\]=\[4\]"),
        ({"surrogate": "ppo"}, "surrogate: expected None or a callable, got 'ppo'"),
        ({"surrogate": PpoClip()}, r"old_logprob: expected \[T\], got None"),
        ({"surrogate": PpoClip(sampler_cap=2.0), "old_logprob": torch.ones(4)}, "sampler_logprob"),
        ({"surrogate": lambda rows: rows.logprob}, "surrogate: expected TokenTerms, got Tensor"),
        ({"entropy_coef": "much"}, "entropy_coef: expected a number"),
        ({"logits_dtype": torch.float16}, "logits_dtype: expected float32"),
        ({"tail_mass": -0.1}, "tail_mass"),
        ({"chunk_rows": 0}, "chunk_rows: expected None or an integer >= 1, got 0"),
        ({"chunk_rows": -3}, "chunk_rows"),
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
