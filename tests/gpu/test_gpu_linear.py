"""The tile-fused head and linear_policy_loss on a GPU, every GPU backend, against float64."""

import pytest
import torch
from linear_cases import assert_as_good_as, check, head_case, run
from row_cases import check_stats
from row_cases import reference as reference_rows

from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.head import Head
from nsr_fast.kernels.logprobs import FUSED, linear_logprobs
from nsr_fast.kernels.policy_loss import linear_policy_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(case: dict) -> dict:
    return {name: value.cuda() for name, value in case.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "tokens, vocab, width", [(1, 5, 3), (300, 5003, 97), (129, 151_936, 896), (1030, 4097, 64)]
)
@pytest.mark.parametrize("softcap", [None, 15.0])
def test_fused_head_matches_float64(dtype, tokens, vocab, width, softcap):
    from nsr_fast.kernels.logprobs_triton import linear_stats

    case = on_gpu(head_case(tokens, vocab, width, dtype=dtype))
    hidden, weight, bias, target = (case[k] for k in ("hidden", "weight", "bias", "target"))
    got = linear_stats(Head(weight, bias, 0.8, softcap, backend="triton"), hidden, target)
    logits = hidden.double() @ weight.double().t() + bias.double()
    # Tensor cores add float32 products with fewer guard bits than an FMA chain.
    check_stats(got, logits, target, slack=10.0, temperature=0.8, softcap=softcap)


def test_fused_head_is_bitwise_repeatable():
    from nsr_fast.kernels.logprobs_triton import linear_stats

    case = on_gpu(head_case(2000, 30_011, 128, dtype=torch.bfloat16))
    inputs = (Head(case["weight"], backend="triton"), case["hidden"], case["target"])
    first, second = linear_stats(*inputs), linear_stats(*inputs)
    assert torch.equal(first.logprob, second.logprob)
    assert torch.equal(first.sum_p2_logp, second.sum_p2_logp)


@pytest.mark.parametrize("backend", ["cuda", "triton", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_loss_matches_float64(backend, dtype):
    case = on_gpu(head_case(97, 2003, 64, dtype=dtype))
    case["token_weight"][::3] = 0.0
    check(case, backend=backend, chunk=40)
    check(case, backend=backend, chunk=None, entropy_coef=0.02, temperature=0.7)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_float32_logits_of_bfloat16_heads(backend):
    case = on_gpu(head_case(64, 5003, 128, dtype=torch.bfloat16))
    truth, _ = run(reference.linear_policy_loss, case, dtype=torch.float64)
    options = {"backend": backend, "logits_dtype": torch.float32}
    got, result = run(linear_policy_loss, case, **options)
    names = ("hidden", "weight", "bias")
    for name, g, t in zip(names, got[1:], truth[1:]):
        assert_as_good_as(g, t, t.to(torch.bfloat16), name=name, eps=2e-2)
    wide = {k: v.double() for k, v in case.items() if v.is_floating_point()}
    logits = wide["hidden"] @ wide["weight"].t() + wide["bias"]
    want = reference_rows(logits, case["target"])
    assert (result.logprob.double() - want.logprob).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["cuda", "triton", FUSED, "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_and_their_gradients_match_float64(backend, dtype):
    case = on_gpu(head_case(150, 4099, 72, dtype=dtype))
    generator = torch.Generator(device="cuda").manual_seed(1)
    upstream = torch.randn(2, 150, generator=generator, device="cuda")

    def gradients(function, kind, **options):
        inputs = [case[k].detach().clone().to(kind).requires_grad_() for k in ("hidden", "weight")]
        results = function(*inputs, case["target"], temperature=0.7, **options)
        logprob, entropy = results[:2]
        ((logprob * upstream[0]).sum() + (entropy * upstream[1]).sum()).backward()
        return [x.grad for x in inputs]

    def ours(*args, **options):
        found = linear_logprobs(*args, backend=backend, **options)
        return found.logprob, found.entropy

    truth = gradients(reference.linear_logprobs, torch.float64)
    base = gradients(reference.linear_logprobs, dtype)
    for name, g, t, b in zip(("hidden", "weight"), gradients(ours, dtype), truth, base):
        eps = 2e-2 if dtype == torch.bfloat16 else 1e-5
        assert_as_good_as(g, t, b, name=name, eps=eps)
