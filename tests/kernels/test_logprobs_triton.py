"""linear_logprobs(backend="triton_fused") in Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

from nsr_fast.kernels.logprobs import linear_logprobs

SCRIPT = """
import torch
from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.logprobs import linear_logprobs
torch.manual_seed(0)
hidden, weight, bias = torch.randn(9, 24), torch.randn(500, 24) / 3, torch.randn(500)
target = torch.randint(0, 500, (9,))
results = []
for dtype in (torch.float32, torch.float64):
    inputs = [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    options = {"bias": inputs[2], "temperature": 0.8, "softcap": 6.0}
    if dtype == torch.float32:
        out = linear_logprobs(*inputs[:2], target, backend="triton_fused", **options)
        values = [out.logprob, out.entropy, out.lse]
    else:
        values = list(reference.linear_logprobs(*inputs[:2], target, **options))
    grads = torch.autograd.grad(values[0].sum() + 2 * values[1].sum(), inputs)
    results.append([*values, *grads])
for got, truth in zip(*results):
    assert (got.double() - truth).abs().max() < 1e-5 * truth.abs().max(), (got, truth)
print("equal")
"""


def test_fused_logprobs_and_gradients_match_float64():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="the backend is there")
def test_without_a_gpu_the_fused_backend_says_why():
    x = torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="'triton' is not available: torch finds no CUDA device"):
        linear_logprobs(x, x, torch.zeros(2, dtype=torch.int64), backend="triton_fused")
