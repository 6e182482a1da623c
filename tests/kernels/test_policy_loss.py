"""linear_policy_loss against float64 autograd on full logits."""

import pytest
import torch
from linear_cases import ALL, assert_as_good_as, check, head_case, leaves, run

from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.objective.terms import PpoClip

BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "tokens, vocab, width", [(1, 7, 3), (5, 17, 4), (33, 1000, 31), (64, 2049, 16), (2, 1, 2)]
)
def test_loss_and_gradients_match_float64(tokens, vocab, width, dtype, backend):
    case = head_case(tokens, vocab, width, dtype=dtype)
    check(case, backend=backend)
    check(case, backend=backend, chunk=7, temperature=0.7, entropy_coef=0.1)


@pytest.mark.parametrize("sign", ["positive", "negative", "mixed with zeros", "one row"])
def test_gradients_match_for_every_pattern_of_signs(sign):
    case = head_case(40, 203, 13)
    w = case["token_weight"]
    patterns = {"positive": w.abs(), "negative": -w.abs(), "mixed with zeros": w * (w > -0.5)}
    only = torch.zeros_like(w).index_fill(0, torch.tensor([17]), -1.0)
    case["token_weight"] = patterns.get(sign, only)
    result = check(case, chunk=16)
    skipped = case["token_weight"] == 0
    for values in (result.logprob, result.entropy, result.lse, result.stats.grad_norm):
        assert bool((values[skipped] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_active_row_gives_exact_zeros(backend):
    case = head_case(6, 50, 4)
    case["token_weight"].zero_()
    case["hidden"][2] = torch.nan
    got, result = run(linear_policy_loss, case, backend=backend)
    assert all(bool((x == 0).all()) for x in got)
    assert result.stats.summary() == {
        "num_tokens": 0.0,
        "num_tokens_positive": 0.0,
        "num_tokens_negative": 0.0,
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_token_at_all_gives_exact_zeros(backend):
    case = head_case(6, 50, 4)
    case = {k: v[:0] if k in ("hidden", "target", "token_weight") else v for k, v in case.items()}
    got, _ = run(linear_policy_loss, case, backend=backend)
    assert got[0] == 0 and got[1].shape == (0, 4) and bool((got[2] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_rows_of_weight_zero_reach_nothing(backend):
    case = head_case(20, 60, 5)
    case["token_weight"][3:9] = 0.0
    clean, _ = run(linear_policy_loss, case, backend=backend, chunk_rows=4)
    case["hidden"][3:9] = torch.nan
    case["target"][3] = -100
    dirty, result = run(linear_policy_loss, case, backend=backend, chunk_rows=4)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty))
    assert result.logprob.isfinite().all()


def test_many_tokens_of_a_tiny_vocabulary():
    check(head_case(65_537, 11, 3), eps=2e-5)


def test_a_few_tokens_of_the_qwen_vocabulary():
    case = head_case(3, 151_936, 9)
    case["target"][0] = 151_935
    check(case)


@pytest.mark.parametrize("tokens, vocab, width", [(1, 8193, 5), (3, 151_936, 9)])
def test_gradients_match_without_a_bias(tokens, vocab, width):
    case = head_case(tokens, vocab, width)
    args = (case["target"], case["token_weight"])
    grads = []
    for dtype in (torch.float64, torch.float32):
        inputs = leaves(case, "hidden", "weight", dtype=dtype)
        reference.linear_policy_loss(*inputs, *args).backward()
        grads.append([x.grad for x in inputs])
    got = leaves(case, "hidden", "weight")
    linear_policy_loss(*got, *args).loss.backward()
    for name, x, truth, base in zip(ALL, got, *grads):
        assert_as_good_as(x.grad, truth, base, name=name, eps=4e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_softcap_and_bias_match(backend):
    check(head_case(30, 301, 8), backend=backend, softcap=3.0, temperature=1.4, entropy_coef=0.3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_a_surrogate_runs_inside_the_pass(backend, dual_clip):
    case = head_case(50, 90, 7)
    with torch.no_grad():
        options = {"bias": case["bias"]}
        logprob, _, _ = reference.linear_logprobs(
            case["hidden"].double(),
            case["weight"].double(),
            case["target"],
            bias=case["bias"].double(),
        )
    options = {"surrogate": PpoClip(0.2, 0.28, dual_clip)}
    noise = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 0.4
    result = check(
        case, backend=backend, chunk=8, old_logprob=(logprob + noise).float(), eps=2e-5, **options
    )
    clipped = result.stats.is_clipped.bool()
    assert 5 < int(clipped.sum()) < 45 and bool((result.stats.c[clipped] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_logits_stay_finite_and_right(backend):
    case = head_case(12, 77, 6)
    case["hidden"] *= 1e4
    case["bias"][5] = -torch.inf
    case["target"][case["target"] == 5] = 6
    check(case, backend=backend)
    check(case, backend=backend, temperature=2.0, entropy_coef=0.1, chunk=5)


def test_logprob_is_within_1e_5_of_float64_and_never_positive():
    case = head_case(64, 5000, 64)
    case["hidden"][:8] = case["weight"][case["target"][:8]] * 10  # p of the target rounds to 1
    result = linear_policy_loss(
        case["hidden"], case["weight"], case["target"], case["token_weight"]
    )
    truth, entropy, lse = reference.linear_logprobs(
        case["hidden"].double(), case["weight"].double(), case["target"]
    )
    assert result.logprob.dtype == torch.float32 and bool((result.logprob <= 0).all())
    assert (result.logprob - truth).abs().max() < 1e-5
    assert (result.entropy - entropy).abs().max() < 1e-5
    assert (result.lse - lse).abs().max() < 1e-4


def test_float32_logits_of_bfloat16_inputs_are_exact():
    case = head_case(30, 400, 24, dtype=torch.bfloat16)
    options = {"logits_dtype": torch.float32}
    result = linear_policy_loss(
        case["hidden"], case["weight"], case["target"], case["token_weight"], **options
    )
    truth, _, _ = reference.linear_logprobs(
        case["hidden"].double(), case["weight"].double(), case["target"]
    )
    assert (result.logprob - truth).abs().max() < 1e-5
    got, _ = run(linear_policy_loss, case, **options)
    want, _ = run(reference.linear_policy_loss, case, dtype=torch.float64)
    for name, g, t in zip(ALL, got[1:], want[1:]):
        assert_as_good_as(g, t, t.to(torch.bfloat16), name=name, eps=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_results_are_bitwise_equal_twice(accumulate, backend):
    case = head_case(100, 333, 16)
    options = {"chunk_rows": 32, "backend": backend, "accumulate_into_grad": accumulate}
    runs = [run(linear_policy_loss, case, **options)[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def test_token_weight_may_be_float64():
    case = head_case(8, 30, 4)
    wide, _ = run(linear_policy_loss, {**case, "token_weight": case["token_weight"].double()})
    single, _ = run(linear_policy_loss, case)
    assert all(torch.allclose(a, b) for a, b in zip(wide, single))


def test_stats_are_what_a_small_step_on_the_logits_does():
    case = head_case(12, 40, 6)
    options = {"temperature": 0.8}
    result = linear_policy_loss(
        case["hidden"].double(),
        case["weight"].double(),
        case["target"],
        case["token_weight"].double(),
        backend="reference",
        **options,
    )
    stats = result.stats
    logits = (case["hidden"].double() @ case["weight"].double().t()).requires_grad_()
    logp = torch.log_softmax(logits / 0.8, 1)
    chosen = logp.gather(1, case["target"][:, None]).squeeze(1)
    (grad,) = torch.autograd.grad(-(case["token_weight"].double() * chosen).sum(), logits)
    assert torch.allclose(stats.grad_norm, grad.norm(dim=1))
    eta = 1e-6
    after = torch.log_softmax((logits - eta * grad) / 0.8, 1)
    entropy = [-(x.exp() * x).sum(1) for x in (logp, after)]
    assert torch.allclose(stats.entropy_change, (entropy[1] - entropy[0]) / eta, atol=1e-4)
    moved = chosen.exp() - after.gather(1, case["target"][:, None]).squeeze(1).exp()
    assert torch.allclose(stats.moved_probability, moved / eta, atol=1e-4)
    greedy = logits.argmax(dim=1) == case["target"]
    assert torch.equal(stats.greedy.bool(), greedy)
    summary = stats.summary()
    negative = case["token_weight"] < 0
    assert summary["num_tokens_negative"] == int(negative.sum())
    mean = stats.entropy_change[negative].mean().item()
    assert summary["entropy_change_negative"] == pytest.approx(mean)
